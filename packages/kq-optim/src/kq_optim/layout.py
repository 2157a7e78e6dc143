"""The layout of a parameter's state: everything that decides which tensors it is made of.

State dict of one parameter: `step`, an int64 scalar on CPU: steps taken; `format`, int32 on CPU,
see `Layout.header`; the tensors of the codec; and, to store bfloat16 parameters, `correction`
(int8, shape of the parameter) or `seed` (an int64 scalar on CPU).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kq_functional import RULES, Rule
from kq_optim.codecs import CODECS, Codec, TensorSpec, codec_for
from kq_optim.placement import Placement, placement_for
from kq_optim.rounding import ROUNDING_IDS, draw_seed, rounding_for
from kq_optim.rules import RULE_IDS, Update

VERSION = 2
"""Version 1 knew the rule "adam" only, and no rounding: its headers lack that entry."""


class Layout(NamedTuple):
    """How and where the state of a parameter is kept.

    Attributes:
        rule_name: the rule, which says what states there are, by its name in kq_functional.
        codec: how their values are stored.
        rounding: how the parameter is stored after a step.
        placement: where the memory is.
    """

    rule_name: str
    codec: Codec
    rounding: str
    placement: Placement

    @property
    def rule(self) -> Rule:
        """The rule's description."""
        return RULES[self.rule_name]

    @property
    def header(self) -> list[int]:
        """Content of `format`: version, rule, codec, blocksize, rounding, map of each state."""
        codec, rule_id = self.codec, RULE_IDS[self.rule_name]
        ids = [VERSION, rule_id, codec.id, codec.blocksize, ROUNDING_IDS[self.rounding]]
        return [*ids, *codec.maps(self.rule)]

    @property
    def readable_headers(self) -> list[list[int]]:
        """Headers of state that this layout can take over as it is."""
        headers = [self.header]
        if self.rule_name == "adam" and self.rounding == "nearest":
            headers.append([1, *self.header[1:4], *self.header[5:]])
        return headers

    def specs(self, param: Tensor, first: float = 0.0) -> dict[str, TensorSpec]:
        """The tensors that are kept beside the parameter, by name."""
        specs = self.codec.specs(self.rule, param, first)
        if self.rounding == "corrected":
            specs["correction"] = TensorSpec(tuple(param.shape), torch.int8, 0)
        return specs

    def scalars(self) -> dict[str, TensorSpec]:
        """The tensors that are kept on the CPU, by name."""
        scalar = TensorSpec((), torch.int64, 0)
        header = TensorSpec((len(self.header),), torch.int32, 0)
        seed = {"seed": scalar} if self.rounding == "stochastic" else {}
        return {"step": scalar, "format": header, **seed}

    def settle(self, state: dict[str, Tensor]) -> None:
        """Moves tensors to where the placement keeps them."""
        for name in state.keys() - self.scalars().keys():
            state[name] = self.placement.settle(state[name])
        self.placement.release(state.values())

    def format(self) -> Tensor:
        """The header as it is kept in state."""
        return torch.tensor(self.header, dtype=torch.int32, device="cpu")

    def new_state(self, param: Tensor, first: float) -> dict[str, Tensor]:
        """State of a parameter before its first step."""
        state = {
            "step": torch.zeros((), dtype=torch.int64, device="cpu"),
            "format": self.format(),
        }
        if self.rounding == "stochastic":
            state["seed"] = draw_seed()
        for name, spec in self.specs(param, first).items():
            tensor = self.placement.empty(spec.shape, spec.dtype, param.device)
            state[name] = tensor.fill_(spec.first)
        self.placement.release(state.values())
        return state


def layout_for(param: Tensor, update: Update, options: Mapping[str, Any]) -> Layout:
    """The layout that a parameter's options ask for.

    Raises:
        NotImplementedError: if the placement cannot serve the parameter's device.
    """
    return Layout(
        update.name,
        codec_for(update.rule, param.numel(), options),
        rounding_for(param.dtype, options),
        placement_for(options, param.device),
    )


def describe_header(header: Sequence[int]) -> str:
    """Readable form of a header, which may come from a foreign or damaged file."""
    version, *rest = header or [0]
    roundings = {number: f", rounding {name}" for name, number in ROUNDING_IDS.items()}
    if version == 1:
        roundings, rest = {0: ""}, [*rest[:3], 0, *rest[3:]]
    if len(rest) < 4:
        return f"unreadable format {list(header)}"
    rule_id, codec_id, blocksize, rounding, *maps = rest
    codecs = {codec.id: codec.description for codec in CODECS.values()}
    codec = codecs.get(codec_id, f"unknown codec {codec_id}")
    rules = {number: name for name, number in RULE_IDS.items()}
    rule = rules.get(rule_id, f"number {rule_id}")
    how = roundings.get(rounding, f", unknown rounding {rounding}")
    return f"{codec} (version {version}, rule {rule}{how}, blocksize {blocksize}, maps {maps})"
