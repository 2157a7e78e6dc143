"""Op kq::cascade_mean: a float32 mean whose order of additions is fixed.

Double quantization subtracts the mean of the scales. Its value must not depend on the number of
threads, and must equal the one in existing checkpoints, which was summed by torch on one thread.
So the order is that one (aten/src/ATen/native/cpu/SumKernel.cpp): four groups of vectors of eight
lanes, each lane summed in a cascade of four levels, then the groups, then the lanes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_tensor
from .library import register

_VECTOR = 8
_GROUPS = 4
_LEVELS = 4


def _add_up(rows: Tensor) -> Tensor:
    """Add the rows of [n, ...] one after the other, starting from zero."""
    total = rows.new_zeros(rows.shape[1:])
    for row in rows:
        total += row
    return total


def _cascade(rows: Tensor) -> Tensor:
    """Sum rows [n, lanes]: level 0 adds single rows, each other level sums of the one below."""
    lanes = rows.shape[1]
    log2 = max(rows.shape[0] - 1, 0).bit_length()
    step = 1 << max(4, log2 // _LEVELS)
    unfinished = []
    for _ in range(_LEVELS - 1):
        full = rows.shape[0] // step * step
        unfinished.append(_add_up(rows[full:]))
        rows = _add_up(rows[:full].view(-1, step, lanes).transpose(0, 1))
    return _add_up(torch.stack([*unfinished, _add_up(rows)]))


def _mean(x: Tensor) -> Tensor:
    _check(x)
    x = x.flatten()
    count = x.numel()
    if count == 0:
        return x.new_zeros(())
    width = _VECTOR if count >= _VECTOR else 1
    lanes = width * _GROUPS
    body = count // lanes * lanes
    vectors = count // width * width
    groups = _cascade(x[:body].view(-1, lanes)).view(_GROUPS, width)
    # Vectors that did not fill a row join the first group before the other groups do.
    rest = x[body:vectors].view(-1, width)
    vector = _add_up(torch.cat((groups[:1], rest, groups[1:])))
    return _add_up(torch.cat((x[vectors:], vector))) / count


def _check(x: Tensor) -> None:
    check_tensor("x", x, torch.float32, x.numel(), x.device)


def _mean_fake(x: Tensor) -> Tensor:
    _check(x)
    return x.new_empty(())


cascade_mean = register("cascade_mean(Tensor x) -> Tensor", _mean, _mean_fake)
