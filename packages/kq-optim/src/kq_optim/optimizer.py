"""The optimizer that all families share: parameters, options, state, checkpoints."""

from __future__ import annotations

import inspect
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from kq_optim.checkpoint import read_groups, read_state
from kq_optim.layout import Layout, layout_for
from kq_optim.options import (
    COMMON_CHECKS,
    DEFAULTS,
    STORAGE_OPTIONS,
    Check,
    Options,
    PlacementName,
    State,
)
from kq_optim.parameters import check_parameter, describe_param, options_of
from kq_optim.placement import placement_for
from kq_optim.rules import Update
from kq_optim.signatures import check_names, spelled_out
from kq_optim.work import collect_work, prepare_states, take_step


class Optimizer(torch.optim.Optimizer):
    """Base class: an update rule, applied to state that a codec stores and a placement holds.

    Families name their hyperparameters and say which rule they select. Everything a step needs
    besides state is in the parameter groups, so that schedulers, copies and checkpoints find it
    there: a group's options are the keys of `defaults`; options of single parameters are under
    `overrides`, by index in the group.

    Parameters that never get a gradient may be of any kind; the others are float32, bfloat16 or
    float16, and their gradients of the same dtype.

    All optimizers take these keyword arguments; `state` and `placement` are fixed by names that
    contain `8bit`, `32bit` or `Paged`:

    Args:
        params: parameters, named parameters or groups, as for any torch optimizer.
        maximize: ascend instead of descend.
        state: "32bit", or "8bit": about one byte for each value of state.
        min_8bit_size: parameters with fewer elements keep 32-bit state.
        placement: where state is kept: "resident", the memory of the parameter's device; or
            "paged": for a parameter on the CPU, files that the operating system pages in and out;
            for one on CUDA, memory of the host, see `synchronize`.
        paged_directory: an existing directory for these files, which should be on a disk; None
            for the system's temporary directory.
        rounding: how bfloat16 parameters are stored: "nearest"; "stochastic", up or down at
            random, so that the mean is right; "corrected", with 8 more bits in the state, which
            makes a master weight of 24 bits. float32 parameters need none of it.

    GradScaler's `grad_scale` and `found_inf` are honoured: gradients are unscaled within the step.
    """

    checks: ClassVar[Mapping[str, Check]]
    """The hyperparameters of the family, each with its check."""

    fixed: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Options that the name of the class fixes."""

    __signature__: ClassVar[inspect.Signature]

    _step_supports_amp_scaling = True
    grad_scale: Tensor | float | None  # set by GradScaler for one step, absent otherwise
    found_inf: Tensor | float | None

    def __init_subclass__(
        cls, *, state: State | None = None, placement: PlacementName | None = None
    ) -> None:
        """Makes `class Adam8bit(Adam, state="8bit")` an optimizer that fixes this option."""
        super().__init_subclass__()
        given = {"state": state, "placement": placement}
        named = {name: value for name, value in given.items() if value is not None}
        cls.fixed = MappingProxyType({**cls.fixed, **named})
        cls.__signature__ = spelled_out(cls.__init__, cls.fixed)

    def __init__(self, params: ParamsT, hyper: Mapping[str, Any], options: Options) -> None:
        given = dict(options)
        check_names(type(self), given, self.fixed)
        defaults = {**hyper, **DEFAULTS, **self.fixed, **given}
        if isinstance(defaults["paged_directory"], os.PathLike):  # checkpoints hold plain values
            defaults["paged_directory"] = os.fspath(defaults["paged_directory"])
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        """Waits for the state that is copied or pickled."""
        self.synchronize()
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and unpickled optimizers keep their state where their options say."""
        super().__setstate__(state)
        for group in self.param_groups:
            for index, param in enumerate(group["params"]):
                if self.state.get(param):
                    self._layout(param, options_of(group, index)).settle(self.state[param])

    def _update(self, options: Mapping[str, Any]) -> Update:
        """The rule that options select, with its hyperparameters.

        Raises:
            ValueError: for options that exclude each other.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say which rule it has")

    @property
    def option_names(self) -> tuple[str, ...]:
        """All options of a parameter group, hyperparameters first."""
        return (*self.checks, *COMMON_CHECKS)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with options of their own; missing options take the defaults.

        Raises:
            TypeError: for a trainable parameter that is not float32, bfloat16 or float16.
            ValueError: for an option out of range.
            NotImplementedError: for placement="paged" and a parameter that is neither on the CPU
                nor on CUDA. The optimizer is unchanged after an error.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            for name in self.option_names:
                self._check_option(name, group[name])
            self._update(group)
            for index, param in enumerate(group["params"]):
                if param.requires_grad:
                    check_parameter(group, index)
                    self._layout(param, group)  # refuses what cannot be kept as asked
        except (TypeError, ValueError, NotImplementedError):
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
            NotImplementedError: as in `add_param_group`.
        """
        for name, value in options.items():
            if name not in self.option_names:
                raise TypeError(f"override accepts {self.option_names}, got {name!r}")
            self._check_option(name, value)
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
            self._layout(param, {**options_of(group, index), **options})
        for group, index, _ in places:
            group.setdefault("overrides", {}).setdefault(index, {}).update(options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient.

        Args:
            closure: re-evaluates the model and returns the loss, which is returned.

        Raises:
            TypeError: for a sparse gradient, or a dtype that is not supported.
            ValueError: if options were changed to a rule that the state does not belong to.
            OSError: if there is no room for paged state. Nothing has been changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if getattr(self, "found_inf", None):
            return loss
        scale = getattr(self, "grad_scale", None)
        all_work = collect_work(
            self.param_groups, self._update, 1.0 if scale is None else float(scale)
        )
        states = [prepare_states(work, self.state) for work in all_work]
        for work, kept in zip(all_work, states, strict=True):
            take_step(work, kept)
        return loss

    def synchronize(self) -> None:
        """Waits until the state of all steps so far can be read from `state`.

        Paged state of a parameter on a device is in memory of the host, and a step returns before
        it is back there. `state_dict`, and so every checkpoint, and copies of the optimizer call
        this themselves; in between, who looks at `state` must.
        """
        placements = {
            placement_for(options_of(group, index), param.device)
            for group in self.param_groups
            for index, param in enumerate(group["params"])
            if self.state.get(param)
        }
        for placement in placements:
            placement.synchronize()

    def state_dict(self) -> dict[str, Any]:
        """See `torch.optim.Optimizer.state_dict`; waits for paged state, see `synchronize`."""
        self.synchronize()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict()` returned, bit for bit.

        Hyperparameters come from `state_dict`. How and where state is kept (`state`,
        `min_8bit_size`, `placement`, `paged_directory`, `rounding`) stays as this optimizer was
        made; what is saved must fit, wherever it was kept. Tensors are
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
        groups = read_groups(state_dict, self.param_groups, self.option_names, self._check_option)
        for group in groups:
            self._update(group)  # refuses hyperparameters that exclude each other
        state = read_state(state_dict, groups, self._layout)
        self.param_groups = groups
        self.state = defaultdict(dict, state)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _check_option(self, name: str, value: Any) -> None:
        {**self.checks, **COMMON_CHECKS}[name](name, value)

    def _layout(self, param: Tensor, options: Mapping[str, Any]) -> Layout:
        return layout_for(param, self._update(options), options)
