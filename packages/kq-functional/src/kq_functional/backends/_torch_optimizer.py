"""The optimizer steps with torch ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..formats import OPTIMIZER_BLOCKSIZE
from ..rules import RULES
from ._torch_codes import TILE, decode, encode, encoding_device, midpoints


def step_32bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[Tensor],
    steps: Sequence[int],
    **options: Any,
) -> None:
    """See `Backend.optimizer_step_32bit`."""
    update = RULES[rule]
    first, second = states[: len(params)], states[len(params) :]
    for param, grad, state1, state2, step in zip(params, grads, first, second, steps, strict=True):
        p = param.float()  # the tensor itself if it is float32
        update(p, grad.float(), state1, state2, step, **options)
        if p is not param:
            param.copy_(p)


def step_8bit(
    rule: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    codes: Sequence[Tensor],
    absmax: Sequence[Tensor],
    code_maps: Sequence[Tensor],
    steps: Sequence[int],
    **options: Any,
) -> None:
    """See `Backend.optimizer_step_8bit`."""
    update = RULES[rule]
    count = len(params)
    thresholds = [midpoints(m.to(encoding_device(m.device))) for m in code_maps]
    for i, (param, grad, step) in enumerate(zip(params, grads, steps, strict=True)):
        p_flat, g_flat = param.view(-1), grad.view(-1)
        state_codes = [codes[k * count + i].view(1, -1) for k in range(2)]
        state_absmax = [absmax[k * count + i].view(1, -1) for k in range(2)]
        # TILE is a multiple of the block size, so every tile holds whole blocks.
        for start in range(0, param.numel(), TILE):
            part = slice(start, min(start + TILE, param.numel()))
            blocks = slice(start // OPTIMIZER_BLOCKSIZE, -(-part.stop // OPTIMIZER_BLOCKSIZE))
            states = []
            for k in range(2):
                values = code_maps[k][state_codes[k][:, part].int()]
                decode(values, state_absmax[k][:, blocks], OPTIMIZER_BLOCKSIZE, out=values)
                states.append(values.view(-1))
            p = p_flat[part].float()
            update(p, g_flat[part].float(), states[0], states[1], step, **options)
            p_flat[part] = p
            for k in range(2):
                tile = encode(
                    states[k].view(1, -1),
                    state_absmax[k][:, blocks],
                    thresholds[k],
                    OPTIMIZER_BLOCKSIZE,
                )
                for _, cols, index in tile:
                    state_codes[k][:, part][:, cols] = index.to(torch.uint8)
