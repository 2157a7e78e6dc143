"""Reading of optimizer state dicts: everything is checked before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from kq_optim.layout import Layout, describe_header
from kq_optim.options import STORAGE_OPTIONS, Check
from kq_optim.parameters import describe_param, options_of

Group = dict[str, Any]

_ADDED = ("amsgrad", "decoupled")
"""Options that checkpoints of version 1 do not have: they stay as the optimizer was made."""


def read_groups(
    state_dict: Mapping[str, Any],
    current: Sequence[Group],
    option_names: Sequence[str],
    check_option: Check,
) -> list[Group]:
    """Combines saved hyperparameters with the current parameters and storage options.

    Args:
        state_dict: what `Optimizer.state_dict` returned.
        current: the optimizer's groups; not changed.
        option_names: the options that a group must have.
        check_option: checks the value of any of them.

    Returns:
        New groups.

    Raises:
        ValueError, TypeError: if something is missing, out of range or of another size.
    """
    saved_groups = _entry(state_dict, "param_groups", list)
    if len(saved_groups) != len(current):
        raise ValueError(
            f"state_dict has {len(saved_groups)} param_groups, the optimizer has {len(current)}"
        )
    groups = []
    for number, (saved, now) in enumerate(zip(saved_groups, current, strict=True)):
        where = f"state_dict['param_groups'][{number}]"
        absent = [name for name in option_names if name not in saved]
        kept_names = (*STORAGE_OPTIONS, *(name for name in absent if name in _ADDED))
        missing = [name for name in ("params", *absent) if name not in (*saved, *kept_names)]
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}")
        if len(saved["params"]) != len(now["params"]):
            raise ValueError(
                f"{where} has {len(saved['params'])} params, "
                f"the optimizer's group has {len(now['params'])}"
            )
        for name in option_names:
            if name in saved and name not in STORAGE_OPTIONS:
                _check_saved(where, name, saved[name], check_option)
        kept = {"params": now["params"], **{name: now[name] for name in kept_names}}
        if "param_names" in now:
            kept.setdefault("param_names", saved.get("param_names", now["param_names"]))
        group = deepcopy({key: value for key, value in saved.items() if key not in kept}) | kept
        overrides = _merged_overrides(saved, now, where, option_names, check_option)
        group.pop("overrides", None)
        groups.append(group | ({"overrides": overrides} if overrides else {}))
    return groups


def read_state(
    state_dict: Mapping[str, Any],
    groups: Sequence[Group],
    layout_for: Callable[[Tensor, Mapping[str, Any]], Layout],
) -> dict[Tensor, dict[str, Tensor]]:
    """Copies saved state to where the optimizer keeps it.

    Args:
        state_dict: what `Optimizer.state_dict` returned.
        groups: the result of `read_groups`.
        layout_for: the layout of a parameter with these options.

    Returns:
        State by parameter.

    Raises:
        ValueError, TypeError: if the state of a parameter is not exactly what the options of
            `groups` ask for.
    """
    saved_state = _entry(state_dict, "state", dict)
    places = {
        key: (group, index)
        for saved, group in zip(state_dict["param_groups"], groups, strict=True)
        for index, key in enumerate(saved["params"])
    }
    unknown = [key for key in saved_state if key not in places]
    if unknown:
        raise ValueError(f"state_dict['state'] has entries of no parameter: {unknown}")
    checked = []
    for key, saved in saved_state.items():
        if saved == {}:  # a parameter that has not taken a step
            continue
        group, index = places[key]
        param = group["params"][index]
        try:
            layout = layout_for(param, options_of(group, index))
            _check_state(saved, layout, param)
        except (TypeError, ValueError) as error:
            raise type(error)(f"state of {describe_param(group, index)}: {error}") from None
        checked.append((param, layout, saved))
    return {param: _copy(saved, layout, param.device) for param, layout, saved in checked}


def _copy(saved: Mapping[str, Tensor], layout: Layout, device: torch.device) -> dict[str, Tensor]:
    state = {}
    for name, tensor in saved.items():
        if name in layout.scalars():
            state[name] = tensor.to("cpu", copy=True)
        else:
            memory = layout.placement.empty(tuple(tensor.shape), tensor.dtype, device)
            state[name] = memory.copy_(tensor)
    layout.placement.release(state.values())
    state["format"] = layout.format()
    return state


def _entry(state_dict: Mapping[str, Any], key: str, kind: type) -> Any:
    if key not in state_dict:
        raise ValueError(f"state_dict lacks {key!r}")
    if not isinstance(state_dict[key], kind):
        raise TypeError(
            f"state_dict[{key!r}] must be a {kind.__name__}, got {type(state_dict[key]).__name__}"
        )
    return state_dict[key]


def _check_saved(where: str, name: str, value: object, check_option: Check) -> None:
    try:
        check_option(name, value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None


def _merged_overrides(
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    where: str,
    option_names: Sequence[str],
    check_option: Check,
) -> dict[int, dict[str, Any]]:
    """Overridden hyperparameters as saved, overridden storage options as they are now."""
    merged: dict[int, dict[str, Any]] = {}
    for index, options in saved.get("overrides", {}).items():
        if index not in range(len(now["params"])):
            raise ValueError(f"{where} has an override of no parameter: {index!r}")
        for name, value in options.items():
            if name not in option_names:
                raise ValueError(f"{where} has an override of no option: {name!r}")
            if name not in STORAGE_OPTIONS:
                _check_saved(where, name, value, check_option)
                merged.setdefault(index, {})[name] = deepcopy(value)
    for index, options in now.get("overrides", {}).items():
        for name in STORAGE_OPTIONS:
            if name in options:
                merged.setdefault(index, {})[name] = options[name]
    return merged


def _check_state(saved: object, layout: Layout, param: Tensor) -> None:
    if not isinstance(saved, Mapping):
        raise TypeError(f"must be a dict, got {type(saved).__name__}")
    specs = {**layout.scalars(), **layout.specs(param)}
    header = saved.get("format")
    if isinstance(header, Tensor) and header.dtype == torch.int32:
        found = header.flatten().tolist()
        if found not in layout.readable_headers:  # before the rest: it explains what else differs
            raise ValueError(
                f"saved as {describe_header(found)}, "
                f"but this optimizer keeps {describe_header(layout.header)}"
            )
        specs["format"] = specs["format"]._replace(shape=(len(found),))
    if set(saved) != set(specs):
        missing = sorted(set(specs) - set(saved))
        unexpected = sorted(map(str, set(saved) - set(specs)))
        raise ValueError(f"missing {missing or 'nothing'}, unexpected {unexpected or 'nothing'}")
    for name, spec in specs.items():
        tensor = saved[name]
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.dtype != spec.dtype or tuple(tensor.shape) != spec.shape:
            raise ValueError(
                f"{name} must be {spec.dtype} {list(spec.shape)}, "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )
    if saved["step"] < 0:
        raise ValueError(f"step must not be negative, got {int(saved['step'])}")
