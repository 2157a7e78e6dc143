"""What a step does: parameters are collected by what they have in common, then stepped together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kq_optim.codecs import Batch
from kq_optim.layout import Layout, describe_header, layout_for
from kq_optim.parameters import Group, check_gradient, check_parameter, describe_param, options_of
from kq_optim.rounding import rounding_arguments
from kq_optim.rules import Update

States = MutableMapping[Tensor, dict[str, Tensor]]


class Work(NamedTuple):
    """Parameters with a gradient that share everything but their tensors.

    Attributes:
        layout: how their state is kept.
        update: what a step does.
        arguments: hyperparameters, as kq_functional names them.
        params: the parameters.
        grads: their gradients.
        places: their groups, and indices therein.
    """

    layout: Layout
    update: Update
    arguments: Mapping[str, Any]
    params: list[Tensor]
    grads: list[Tensor]
    places: list[tuple[Group, int]]


def collect_work(
    groups: Sequence[Group],
    update_for: Callable[[Group], Update],
    grad_scale: float,
) -> list[Work]:
    """Returns all parameters that have a gradient.

    Every gradient is checked, so that a step that is refused has changed nothing.
    """
    collected: dict[tuple[Any, ...], Work] = {}
    strided = torch.strided
    for group in groups:
        overrides = group.get("overrides", {})
        min_8bit_size = group["min_8bit_size"]
        # Options are read once for all parameters of a kind: models have hundreds.
        kinds: dict[tuple[torch.dtype, torch.device, bool], Work] = {}
        for index, param in enumerate(group["params"]):
            grad = param.grad
            if grad is None:
                continue
            dtype = param.dtype
            if grad.dtype != dtype or grad.layout != strided:
                check_gradient(group, index)
            kind = (dtype, param.device, param.numel() < min_8bit_size)
            work = kinds.get(kind)
            if work is None or index in overrides:
                check_parameter(group, index)
                options = options_of(group, index)
                work = _work_for(param, options, update_for, grad_scale, collected)
                if index not in overrides:
                    kinds[kind] = work
            work.params.append(param)
            work.grads.append(grad)
            work.places.append((group, index))
    return list(collected.values())


def prepare_states(work: Work, states: States) -> list[dict[str, Tensor]]:
    """Creates the state of parameters that have none, and checks that the other one fits.

    Returns:
        The state of each parameter.

    Raises:
        ValueError: for state of another layout.
    """
    header = work.layout.header
    kept = [states[param] for param in work.params]
    fresh = []
    for number, state in enumerate(kept):
        if state and state["format"].tolist() == header:
            continue
        group, index = work.places[number]
        if state:
            raise ValueError(
                f"state of {describe_param(group, index)} is "
                f"{describe_header(state['format'].tolist())}, but its options ask for "
                f"{describe_header(header)}: they cannot change after the first step"
            )
        check_parameter(group, index)
        fresh.append((state, work.layout.new_state(work.params[number], work.update.first)))
    for state, new in fresh:
        state.update(new)
    return kept


def take_step(work: Work, kept: list[dict[str, Tensor]]) -> None:
    """Steps the parameters, in the portions that their placement asks for."""
    layout = work.layout
    for part, batch_states in layout.placement.walk(kept):
        steps = [state["step"] for state in batch_states]
        batch = Batch(
            params=work.params[part],
            grads=work.grads[part],
            states=batch_states,
            steps=[int(step.item()) + 1 for step in steps],
        )
        arguments = {**work.arguments, **rounding_arguments(layout.rounding, batch_states)}
        layout.codec.step(layout.rule, batch, arguments)
        torch._foreach_add_(steps, 1)


def _work_for(
    param: Tensor,
    options: Group,
    update_for: Callable[[Group], Update],
    grad_scale: float,
    collected: dict[tuple[Any, ...], Work],
) -> Work:
    """The work that a parameter belongs to; a new one if there is none yet."""
    update = update_for(options)
    layout = layout_for(param, update, options)
    arguments = {
        "lr": float(options["lr"]),
        "weight_decay": options["weight_decay"],
        "decoupled": update.decoupled,
        "maximize": options["maximize"],
        "grad_scale": grad_scale,
        **update.hyper,
    }
    key = (layout, update.first, *arguments.values())
    if key not in collected:
        collected[key] = Work(layout, update, arguments, [], [], [])
    return collected[key]
