"""Optimizer checkpoints of bitsandbytes, read and written without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import kq_functional as kq
from kq_optim.bnb_groups import (
    check_decay,
    check_same_training,
    dialect_of,
    read_group,
    write_group,
)
from kq_optim.codecs import CODECS, code_map
from kq_optim.layout import Layout
from kq_optim.optimizer import Optimizer
from kq_optim.parameters import describe_param, options_of
from kq_optim.rounding import draw_seed

_WRAPPED = "__bnb_optimizer_quant_state__"
_BLOCKSIZE = 256
_SIGNED = {1: True, 2: False}
"""bitsandbytes' code maps by state: signed and unsigned, also for squares that are state 1."""


def import_bitsandbytes(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Loads what the `state_dict()` of an optimizer of bitsandbytes 0.4x or 0.50 returned.

    Hyperparameters that bitsandbytes keeps come from `state_dict`; all other options stay as
    `optimizer` was made. Codes and scales are taken over bit for bit, but those of RMSprop and
    Adagrad, whose squares bitsandbytes encodes with the signed map: they are decoded and encoded
    with the unsigned one.

    Args:
        optimizer: of the family that `state_dict` comes from, which cannot always be seen from it,
            with parameters in the same groups and order.
        state_dict: in the flat form, or with tensors wrapped for FSDP.

    Raises:
        TypeError, ValueError: if `state_dict` is damaged, or does not fit. The optimizer is
            unchanged then.
    """
    dialect = dialect_of(optimizer)
    groups, state = [], {}
    saved_groups = _entry(state_dict, "param_groups", list)
    saved_state = _entry(state_dict, "state", dict)
    if len(saved_groups) != len(optimizer.param_groups):
        raise ValueError(
            f"state_dict has {len(saved_groups)} param_groups, "
            f"the optimizer has {len(optimizer.param_groups)}"
        )
    for number, (saved, now) in enumerate(zip(saved_groups, optimizer.param_groups, strict=True)):
        try:
            options = read_group(saved, dialect)
            for name, value in options.items():
                optimizer._check_option(name, value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"state_dict['param_groups'][{number}]: {error}") from None
        group = {**now, **options}
        check_decay(group, dialect)
        groups.append({**group, "params": saved["params"]})
        for index, key in zip(range(len(now["params"])), saved["params"], strict=False):
            if saved_state.get(key):
                layout = optimizer._layout(now["params"][index], options_of(group, index))
                try:
                    state[key] = _read_state(saved_state[key], layout)
                except (TypeError, ValueError) as error:
                    where = describe_param(now, index)
                    raise type(error)(f"state of {where}: {error}") from None
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def export_bitsandbytes(optimizer: Optimizer, *, wrapped: bool = True) -> dict[str, Any]:
    """Returns a state dict that the same optimizer of bitsandbytes loads.

    Args:
        optimizer: one whose training bitsandbytes can continue.
        wrapped: put the tensors into a dictionary of their own, as bitsandbytes does since 0.46;
            older versions read only the flat form.

    Raises:
        TypeError, ValueError: for rules and options that bitsandbytes does not have, or ignores.
    """
    dialect = dialect_of(optimizer)
    plain = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    groups = []
    for packed, group in zip(plain["param_groups"], optimizer.param_groups, strict=True):
        if group.get("overrides"):
            raise ValueError("bitsandbytes does not keep overrides of single parameters")
        check_same_training(group, optimizer._update(group), dialect)
        groups.append({**write_group(group, dialect), "params": packed["params"]})
        for key, param in zip(packed["params"], group["params"], strict=True):
            if plain["state"].get(key):
                tensors = _write_state(plain["state"][key], optimizer._layout(param, group))
                entry = {"step": int(plain["state"][key]["step"])}
                state[key] = entry | ({_WRAPPED: tensors} if wrapped else tensors)
    return {"state": state, "param_groups": groups}


def _entry(state_dict: Mapping[str, Any], key: str, kind: type) -> Any:
    found = state_dict.get(key) if isinstance(state_dict, Mapping) else None
    if not isinstance(found, kind):
        raise TypeError(
            f"state_dict[{key!r}] must be a {kind.__name__}, got {type(found).__name__}"
        )
    return found


def _read_state(saved: Any, layout: Layout) -> dict[str, Tensor]:
    if not isinstance(saved, Mapping) or not isinstance(saved.get(_WRAPPED, {}), Mapping):
        raise TypeError(f"must be a dict, got {saved!r:.50}")
    saved = {**saved, **saved.get(_WRAPPED, {})}
    if not isinstance(saved.get("step"), int):
        raise TypeError(f"step must be an int, got {saved.get('step')!r}")
    coded = _tensor(saved, "state1").dtype == torch.uint8
    layout = layout._replace(codec=CODECS["8bit" if coded else "32bit"])
    state = {"step": torch.tensor(saved["step"], device="cpu"), "format": layout.format()}
    for ours, number, row in _places(layout):
        state[f"state{ours}"] = _tensor(saved, f"state{number}", row)
        if coded:
            _check_map(_tensor(saved, f"qmap{number}"), number)
            state[f"absmax{ours}"] = _tensor(saved, f"absmax{number}", row)
            _recode(state, ours, _SIGNED[number], layout.rule.signed[ours - 1])
    if layout.rounding == "corrected":
        state["correction"] = torch.zeros_like(state["state1"], dtype=torch.int8)
    elif layout.rounding == "stochastic":
        state["seed"] = draw_seed()
    return state


def _tensor(saved: Mapping[str, Any], name: str, row: int | None = None) -> Tensor:
    tensor = saved.get(name)
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if row is None:
        return tensor
    if tensor.shape[:1] != (2,):
        raise ValueError(f"{name} must have two rows, got shape {list(tensor.shape)}")
    return tensor[row]


def _write_state(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    state = dict(state)
    coded = layout.codec.blocksize > 0
    columns: dict[str, list[Tensor]] = {}
    for ours, number, _row in _places(layout):
        if coded:
            _recode(state, ours, layout.rule.signed[ours - 1], _SIGNED[number])
            columns.setdefault(f"absmax{number}", []).append(state[f"absmax{ours}"])
            columns[f"qmap{number}"] = [code_map(_SIGNED[number], state["state1"].device)]
        columns.setdefault(f"state{number}", []).append(state[f"state{ours}"])
    tensors = {
        name: torch.stack(rows) if len(rows) > 1 else rows[0].clone()
        for name, rows in columns.items()
    }
    if layout.rule_name in ("lamb_clipped", "lars_clipped"):
        tensors["unorm_vec"] = torch.zeros(1, device=state["state1"].device)
    return tensors


def _places(layout: Layout) -> list[tuple[int, int, int | None]]:
    """For each of our states bitsandbytes' number, and the row in it if it holds two."""
    if layout.rule_name == "ademamix":
        return [(1, 1, 0), (2, 1, 1), (3, 2, None)]
    return [(number, number, None) for number, _ in enumerate(layout.rule.signed, 1)]


def _check_map(found: Tensor, number: int) -> None:
    if not torch.equal(found.cpu(), code_map(_SIGNED[number])):
        kind = "signed" if _SIGNED[number] else "unsigned"
        raise ValueError(f"qmap{number} is not the {kind} dynamic map, the only one known here")


def _recode(state: dict[str, Tensor], number: int, before: bool, after: bool) -> None:
    """Replaces codes and scales for one dynamic map by those for the other, where they differ."""
    if before == after:
        return
    codes = state[f"state{number}"]
    scales = state[f"absmax{number}"].to(codes.device)  # of paged state, codes alone may be away
    if scales.shape != (-(-codes.numel() // _BLOCKSIZE),):
        raise ValueError(f"absmax of {codes.numel()} codes has the shape {list(scales.shape)}")
    decoded = code_map(before, codes.device)[codes.flatten().int()]
    decoded *= scales.repeat_interleave(_BLOCKSIZE)[: decoded.numel()]
    if (decoded < 0).any():
        raise ValueError(f"state{number} holds squares, but some are negative")
    coded, quant_state = kq.quantize_blockwise(
        decoded, code_map(after, codes.device), blocksize=_BLOCKSIZE
    )
    state[f"state{number}"] = coded.view(codes.shape)
    state[f"absmax{number}"] = quant_state.absmax
