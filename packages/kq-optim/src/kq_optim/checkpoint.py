"""Reading of optimizer state dicts: everything is checked before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from kq_optim.codecs import Codec, TensorSpec, codec_for, describe_header
from kq_optim.options import STORAGE_OPTIONS, check_option
from kq_optim.placement import PLACEMENTS
from kq_optim.rules import Rule

Group = dict[str, Any]


def describe_param(group: Mapping[str, Any], index: int) -> str:
    """Names a parameter in messages."""
    shape = list(group["params"][index].shape)
    if "param_names" in group:
        return f"parameter {group['param_names'][index]!r} of shape {shape}"
    return f"parameter {index} of its group, of shape {shape},"


def read_groups(
    state_dict: Mapping[str, Any], current: Sequence[Group], option_names: Sequence[str]
) -> list[Group]:
    """Combines saved hyperparameters with the current parameters and storage options.

    Args:
        state_dict: what `Optimizer.state_dict` returned.
        current: the optimizer's groups; not changed.
        option_names: the options that a group must have.

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
        missing = [name for name in ("params", *option_names) if name not in saved]
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}")
        if len(saved["params"]) != len(now["params"]):
            raise ValueError(
                f"{where} has {len(saved['params'])} params, "
                f"the optimizer's group has {len(now['params'])}"
            )
        for name in option_names:
            _check_saved(where, name, saved[name])
        kept = {"params": now["params"], **{name: now[name] for name in STORAGE_OPTIONS}}
        if "param_names" in now:
            kept.setdefault("param_names", saved.get("param_names", now["param_names"]))
        group = deepcopy({key: value for key, value in saved.items() if key not in kept}) | kept
        overrides = _merged_overrides(saved, now, where, option_names)
        group.pop("overrides", None)
        groups.append(group | ({"overrides": overrides} if overrides else {}))
    return groups


def read_state(
    state_dict: Mapping[str, Any], groups: Sequence[Group], rule: Rule
) -> dict[Tensor, dict[str, Tensor]]:
    """Copies saved state to where the parameters are.

    Args:
        state_dict: what `Optimizer.state_dict` returned.
        groups: the result of `read_groups`.
        rule: the optimizer's rule.

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
    state = {}
    for key, saved in saved_state.items():
        if saved == {}:  # a parameter that has not taken a step
            continue
        group, index = places[key]
        param = group["params"][index]
        options = {**group, **group.get("overrides", {}).get(index, {})}
        codec = codec_for(param, options)
        try:
            _check_state(saved, codec, rule, param)
        except (TypeError, ValueError) as error:
            raise type(error)(f"state of {describe_param(group, index)}: {error}") from None
        placement = PLACEMENTS[options["placement"]]
        state[param] = {
            name: placement.empty(tuple(tensor.shape), tensor.dtype, param.device).copy_(tensor)
            if name in codec.specs(rule, param)
            else tensor.to("cpu", copy=True)
            for name, tensor in saved.items()
        }
    return state


def _entry(state_dict: Mapping[str, Any], key: str, kind: type) -> Any:
    if key not in state_dict:
        raise ValueError(f"state_dict lacks {key!r}")
    if not isinstance(state_dict[key], kind):
        raise TypeError(
            f"state_dict[{key!r}] must be a {kind.__name__}, got {type(state_dict[key]).__name__}"
        )
    return state_dict[key]


def _check_saved(where: str, name: str, value: object) -> None:
    try:
        check_option(name, value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None


def _merged_overrides(
    saved: Mapping[str, Any], now: Mapping[str, Any], where: str, option_names: Sequence[str]
) -> dict[int, dict[str, Any]]:
    """Overridden hyperparameters as saved, overridden storage options as they are now."""
    merged: dict[int, dict[str, Any]] = {}
    for index, options in saved.get("overrides", {}).items():
        if index not in range(len(now["params"])):
            raise ValueError(f"{where} has an override of no parameter: {index!r}")
        for name, value in options.items():
            if name not in option_names:
                raise ValueError(f"{where} has an override of no option: {name!r}")
            _check_saved(where, name, value)
            if name not in STORAGE_OPTIONS:
                merged.setdefault(index, {})[name] = deepcopy(value)
    for index, options in now.get("overrides", {}).items():
        for name in STORAGE_OPTIONS:
            if name in options:
                merged.setdefault(index, {})[name] = options[name]
    return merged


def _check_state(saved: object, codec: Codec, rule: Rule, param: Tensor) -> None:
    if not isinstance(saved, Mapping):
        raise TypeError(f"must be a dict, got {type(saved).__name__}")
    specs = {
        "step": TensorSpec((), torch.int64, 0),
        "format": TensorSpec((len(codec.header(rule)),), torch.int32, 0),
        **codec.specs(rule, param),
    }
    header = saved.get("format")
    if isinstance(header, Tensor) and header.dtype == torch.int32:
        found = tuple(header.flatten().tolist())
        if found != codec.header(rule):  # before the rest: it explains what else differs
            raise ValueError(
                f"saved as {describe_header(found)}, "
                f"but this optimizer keeps {describe_header(codec.header(rule))}"
            )
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
