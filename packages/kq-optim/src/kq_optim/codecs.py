"""Codecs: how the state of a parameter is stored between steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import kq_functional as kq
from kq_functional import Rule

_CODE_MAPS: dict[tuple[bool, torch.device], Tensor] = {}


class TensorSpec(NamedTuple):
    """Shape, dtype and first value of one state tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    first: float


class Batch(NamedTuple):
    """Parameters that take a step together; the lists have one entry for each."""

    params: Sequence[Tensor]
    grads: Sequence[Tensor]
    states: Sequence[Mapping[str, Tensor]]
    steps: Sequence[int]


class Codec(ABC):
    """How the values of a rule's state are stored.

    Attributes:
        description: for error messages.
        id: its number in checkpoints; never reused.
        blocksize: elements that share a scale; 0 if there are no scales.
    """

    description: str
    id: int
    blocksize: int

    @abstractmethod
    def specs(self, rule: Rule, param: Tensor, first: float = 0.0) -> dict[str, TensorSpec]:
        """The state tensors of a parameter, by name; `first` is the value that they start from."""

    @abstractmethod
    def maps(self, rule: Rule) -> tuple[int, ...]:
        """For each state tensor of the rule, the number of its code map; 0 for none."""

    @abstractmethod
    def step(self, rule: Rule, batch: Batch, arguments: Mapping[str, Any]) -> None:
        """Takes one step: updates parameters and state in place.

        Args:
            rule: what to do.
            batch: parameters, each with a gradient of its dtype.
            arguments: hyperparameters and rounding, as kq_functional names them.
        """


class Float32(Codec):
    """Full precision, whatever the dtype of the parameter."""

    description = "32-bit state"
    id = 1
    blocksize = 0

    def specs(self, rule: Rule, param: Tensor, first: float = 0.0) -> dict[str, TensorSpec]:
        """`state1`, `state2`, ...: float32, shape of the parameter."""
        spec = TensorSpec(tuple(param.shape), torch.float32, first)
        return {f"state{number}": spec for number, _ in enumerate(rule.signed, 1)}

    def maps(self, rule: Rule) -> tuple[int, ...]:
        """No code maps."""
        return (0,) * len(rule.signed)

    def step(self, rule: Rule, batch: Batch, arguments: Mapping[str, Any]) -> None:
        """See `Codec.step`."""
        kq.optimizer_step_32bit(
            rule.name,
            batch.params,
            batch.grads,
            _columns(batch.states, "state", rule),
            batch.steps,
            **arguments,
        )


class Dynamic8bit(Codec):
    """Codes of the dynamic map, signed or unsigned, in flat blocks with one absmax each.

    Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (2022). Blocks run over the
    parameter in row-major order, whatever its strides.
    """

    description = "8-bit state"
    id = 2
    blocksize = 256

    def specs(self, rule: Rule, param: Tensor, first: float = 0.0) -> dict[str, TensorSpec]:
        """`state1`...: uint8, shape of the parameter; `absmax1`...: float32 [blocks]."""
        blocks = -(-param.numel() // self.blocksize)
        specs = {}
        for number, signed in enumerate(rule.signed, 1):
            # A block of one value is that value times the code of 1, which both maps have exactly.
            code = (code_map(signed) - (1 if first else 0)).abs().argmin()
            specs[f"state{number}"] = TensorSpec(tuple(param.shape), torch.uint8, int(code))
            specs[f"absmax{number}"] = TensorSpec((blocks,), torch.float32, first)
        return specs

    def maps(self, rule: Rule) -> tuple[int, ...]:
        """1 for the signed dynamic map, 2 for the unsigned one."""
        return tuple(1 if signed else 2 for signed in rule.signed)

    def step(self, rule: Rule, batch: Batch, arguments: Mapping[str, Any]) -> None:
        """See `Codec.step`."""
        device = batch.params[0].device
        kq.optimizer_step_8bit(
            rule.name,
            batch.params,
            batch.grads,
            _columns(batch.states, "state", rule),
            _columns(batch.states, "absmax", rule),
            [code_map(signed, device) for signed in rule.signed],
            batch.steps,
            **arguments,
        )


CODECS: dict[str, Codec] = {"32bit": Float32(), "8bit": Dynamic8bit()}
"""Codecs by the value of the option `state`."""


def codec_for(rule: Rule, size: int, options: Mapping[str, Any]) -> Codec:
    """The codec that the options of a parameter of `size` elements ask for.

    Small parameters keep full precision: they need little memory, and norms and biases are
    sensitive. The size is that of the whole parameter, so that shards of it agree. A rule without
    state has nothing to encode.
    """
    exact = not rule.signed or size < options["min_8bit_size"]
    return CODECS["32bit" if exact else options["state"]]


def code_map(signed: bool, device: torch.device | None = None) -> Tensor:
    """The dynamic map on a device, the CPU if none is given; shared, not to be changed."""
    device = device or torch.device("cpu")
    key = (signed, device)
    if key not in _CODE_MAPS:
        _CODE_MAPS[key] = kq.create_dynamic_map(signed=signed).to(device)
    return _CODE_MAPS[key]


def _columns(states: Sequence[Mapping[str, Tensor]], name: str, rule: Rule) -> list[Tensor]:
    """First state tensor of all parameters, then the second of all, and so on."""
    keys = [f"{name}{number}" for number, _ in enumerate(rule.signed, 1)]
    return [state[key] for key in keys for state in states]
