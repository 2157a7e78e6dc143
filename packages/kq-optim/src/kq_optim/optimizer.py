"""The optimizer that all families share: parameters, options, state, checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from kq_functional.formats import FLOAT_DTYPES
from kq_optim.checkpoint import describe_param, read_groups, read_state
from kq_optim.codecs import Batch, Codec, codec_for
from kq_optim.options import STORAGE_OPTIONS, check_option
from kq_optim.placement import PLACEMENTS, Placement
from kq_optim.rules import Rule


class Optimizer(torch.optim.Optimizer):
    """Base class: an update rule, applied to state that a codec stores and a placement holds.

    Families set `rule` and `decoupled` and name their options. Everything a step needs besides
    state is in the parameter groups, so that schedulers, copies and checkpoints find it there:
    a group's options are the keys of `defaults`; options of single parameters are under
    `overrides`, by index in the group.

    Attributes:
        rule: the update rule.
        decoupled: whether weight decay shrinks the parameter (AdamW) or is added to the gradient.
    """

    rule: Rule
    decoupled: bool

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with options of their own; missing options take the defaults.

        Raises:
            TypeError: for a trainable parameter that is not float32, bfloat16 or float16.
            ValueError: for an option out of range. The optimizer is unchanged after an error.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            for name in self._option_names:
                check_option(name, group[name])
            for index, param in enumerate(group["params"]):
                if param.requires_grad:
                    _check_parameter(param, group, index)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def override(self, target: Tensor | nn.Module, **options: Any) -> None:
        """Gives one parameter, or all of a module's, options that differ from their group's.

        For example `optimizer.override(model.embed_tokens, state="32bit")`. An overridden `lr` is
        not changed by schedulers. Overrides are saved in the state dict.

        Args:
            target: a parameter of this optimizer, or a module with at least one.
            **options: any options of the constructor, by name.

        Raises:
            TypeError: for an unknown option.
            ValueError: for a value out of range, a target that this optimizer does not hold, or a
                change of how state is stored after the parameter's first step.
        """
        for name, value in options.items():
            if name not in self._option_names:
                raise TypeError(f"override accepts {self._option_names}, got {name!r}")
            check_option(name, value)
        wanted = {id(p) for p in ([target] if isinstance(target, Tensor) else target.parameters())}
        places = [
            (group, index, param)
            for group in self.param_groups
            for index, param in enumerate(group["params"])
            if id(param) in wanted
        ]
        if not places:
            raise ValueError(f"override: no parameter of {type(target).__name__} is optimized here")
        stored = [name for name in options if name in STORAGE_OPTIONS]
        for group, index, param in places:
            if stored and self.state.get(param):
                raise ValueError(
                    f"override of {stored[0]} must come before the first step, "
                    f"but {describe_param(group, index)} has state already"
                )
        for group, index, _ in places:
            group.setdefault("overrides", {}).setdefault(index, {}).update(options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient.

        Args:
            closure: re-evaluates the model and returns the loss, which is returned.

        Raises:
            TypeError: for a sparse gradient, or a dtype that is not supported. Nothing has been
                changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for work in self._work():
            self._step_together(work)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict()` returned, bit for bit.

        Hyperparameters come from `state_dict`. How and where state is kept (`state`,
        `min_8bit_size`, `placement`) stays as this optimizer was made, and must fit. Tensors are
        copied, to the device of their parameter and never to another dtype:
        `torch.optim.Optimizer.load_state_dict` would cast codes and scales to the parameter's.

        Raises:
            TypeError, ValueError: if `state_dict` is damaged, incomplete or belongs to another
                kind of optimizer. The optimizer is unchanged then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a dict, got {type(state_dict).__name__}")
        state_dict = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        groups = read_groups(state_dict, self.param_groups, self._option_names)
        state = read_state(state_dict, groups, self.rule)
        self.param_groups = groups
        self.state = defaultdict(dict, state)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    @property
    def _option_names(self) -> tuple[str, ...]:
        return (*self.rule.options, *STORAGE_OPTIONS)

    def _arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Hyperparameters as kq_functional names them."""
        return {
            "lr": float(options["lr"]),
            "weight_decay": options["weight_decay"],
            "decoupled": self.decoupled,
            "maximize": options["maximize"],
            **self.rule.arguments(options),
        }

    def _work(self) -> list[_Work]:
        """Parameters that have a gradient, grouped by all that a native call has in common.

        Checks every gradient, so that a step that is refused has changed nothing.
        """
        found: dict[tuple[Any, ...], _Work] = {}
        for group in self.param_groups:
            group_arguments = self._arguments(group)
            overrides = group.get("overrides", {})
            for index, param in enumerate(group["params"]):
                if param.grad is None:
                    continue
                _check_gradient(param, group, index)
                options, arguments = group, group_arguments
                if index in overrides:
                    options = {**group, **overrides[index]}
                    arguments = self._arguments(options)
                codec = codec_for(param, options)
                placement = PLACEMENTS[options["placement"]]
                key = (codec.id, id(placement), *arguments.values())
                if key not in found:
                    found[key] = _Work(codec, placement, arguments, [])
                found[key].params.append(param)
        return list(found.values())

    def _step_together(self, work: _Work) -> None:
        states = [self.state[param] for param in work.params]
        for param, state in zip(work.params, states, strict=True):
            if not state:
                state.update(work.codec.new_state(self.rule, param, work.placement))
        batch = Batch(
            params=work.params,
            grads=[param.grad for param in work.params if param.grad is not None],
            states=states,
            steps=[int(state["step"]) + 1 for state in states],
        )
        work.codec.step(self.rule, batch, work.arguments)
        for state in states:
            state["step"] += 1


class _Work(NamedTuple):
    codec: Codec
    placement: Placement
    arguments: dict[str, Any]
    params: list[Tensor]


def _check_parameter(param: Tensor, group: Mapping[str, Any], index: int) -> None:
    if hasattr(param, "device_mesh"):
        raise TypeError(f"{describe_param(group, index)} is a DTensor, which is not supported")
    if param.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{describe_param(group, index)} is {param.dtype}; "
            "this optimizer accepts float32, bfloat16 and float16"
        )


def _check_gradient(param: Tensor, group: Mapping[str, Any], index: int) -> None:
    _check_parameter(param, group, index)
    grad = param.grad
    if grad is None or (grad.layout == torch.strided and grad.dtype == param.dtype):
        return
    raise TypeError(
        f"gradient of {describe_param(group, index)} is {grad.dtype}, {grad.layout}; "
        f"this optimizer accepts {param.dtype}, torch.strided"
    )
