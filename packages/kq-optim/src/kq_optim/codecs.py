"""Codecs: how the state of a parameter is stored between steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import kq_functional as kq
from kq_optim.placement import Placement
from kq_optim.rules import Rule

STATE_VERSION = 1

_CODE_MAPS: dict[tuple[bool, torch.device], Tensor] = {}


class TensorSpec(NamedTuple):
    """Shape, dtype and first value of one state tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    fill: int


class Batch(NamedTuple):
    """Parameters that take a step together; the lists have one entry for each."""

    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Tensor]]
    steps: list[int]


class Codec(ABC):
    """How the state of a parameter is stored.

    State dict of one parameter: `step`, an int64 scalar on CPU: steps taken; `format`, int32 on
    CPU, see `header`; and the tensors that `specs` describes.

    Attributes:
        description: for error messages.
        id: its number in checkpoints; never reused.
        blocksize: elements that share a scale; 0 if there are no scales.
    """

    description: str
    id: int
    blocksize: int

    @abstractmethod
    def specs(self, rule: Rule, param: Tensor) -> dict[str, TensorSpec]:
        """The state tensors of a parameter, by name."""

    @abstractmethod
    def maps(self, rule: Rule) -> tuple[int, ...]:
        """For each state tensor of the rule, the number of its code map; 0 for none."""

    @abstractmethod
    def step(self, rule: Rule, batch: Batch, arguments: Mapping[str, Any]) -> None:
        """Takes one step: updates parameters and state in place.

        Args:
            rule: what to do.
            batch: parameters, each with a gradient of its dtype.
            arguments: hyperparameters, as kq_functional names them.
        """

    def header(self, rule: Rule) -> tuple[int, ...]:
        """Content of `format`: version, rule, codec, blocksize, and the code map of each state."""
        return (STATE_VERSION, rule.id, self.id, self.blocksize, *self.maps(rule))

    def new_state(self, rule: Rule, param: Tensor, placement: Placement) -> dict[str, Tensor]:
        """State of a parameter before its first step."""
        state = {
            "step": torch.zeros((), dtype=torch.int64, device="cpu"),
            "format": torch.tensor(self.header(rule), dtype=torch.int32, device="cpu"),
        }
        for name, spec in self.specs(rule, param).items():
            tensor = placement.empty(spec.shape, spec.dtype, param.device)
            state[name] = tensor.fill_(spec.fill)
        return state


class Float32(Codec):
    """Full precision, whatever the dtype of the parameter."""

    description = "32-bit state"
    id = 1
    blocksize = 0

    def specs(self, rule: Rule, param: Tensor) -> dict[str, TensorSpec]:
        """`state1`, `state2`, ...: float32, shape of the parameter."""
        spec = TensorSpec(tuple(param.shape), torch.float32, 0)
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

    def specs(self, rule: Rule, param: Tensor) -> dict[str, TensorSpec]:
        """`state1`...: uint8, shape of the parameter; `absmax1`...: float32 [blocks]."""
        blocks = -(-param.numel() // self.blocksize)
        specs = {}
        for number, signed in enumerate(rule.signed, 1):
            zero = int(_code_map(signed, torch.device("cpu")).abs().argmin())
            specs[f"state{number}"] = TensorSpec(tuple(param.shape), torch.uint8, zero)
            specs[f"absmax{number}"] = TensorSpec((blocks,), torch.float32, 0)
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
            [_code_map(signed, device) for signed in rule.signed],
            batch.steps,
            **arguments,
        )


CODECS: dict[str, Codec] = {"32bit": Float32(), "8bit": Dynamic8bit()}
"""Codecs by the value of the option `state`."""


def codec_for(param: Tensor, options: Mapping[str, Any]) -> Codec:
    """The codec that a parameter's options ask for.

    Small parameters keep full precision: they need little memory, and norms and biases are
    sensitive. The size is that of the whole parameter, so that shards of it agree.
    """
    small = options["state"] == "8bit" and param.numel() < options["min_8bit_size"]
    return CODECS["32bit" if small else options["state"]]


def describe_header(header: Sequence[int]) -> str:
    """Readable form of a `format` header, which may come from a foreign or damaged file."""
    if len(header) < 4:
        return f"unreadable format {list(header)}"
    version, rule, codec_id, blocksize, *maps = header
    names = {codec.id: codec.description for codec in CODECS.values()}
    codec = names.get(codec_id, f"unknown codec {codec_id}")
    return f"{codec} (version {version}, rule {rule}, blocksize {blocksize}, maps {maps})"


def _columns(states: Sequence[Mapping[str, Tensor]], name: str, rule: Rule) -> list[Tensor]:
    """First state tensor of all parameters, then the second of all, and so on."""
    return [state[f"{name}{number}"] for number, _ in enumerate(rule.signed, 1) for state in states]


def _code_map(signed: bool, device: torch.device) -> Tensor:
    key = (signed, device)
    if key not in _CODE_MAPS:
        _CODE_MAPS[key] = kq.create_dynamic_map(signed=signed).to(device)
    return _CODE_MAPS[key]
