"""What is to be done: operands that all contenders of a row share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

import kq_functional as kq
from benchmarks import checks
from benchmarks.data import dtype_name, gaussian, nbytes, rotate
from benchmarks.harness import Verdict
from benchmarks.plan import Plan
from kq_conformance.reference import RULES, Hyper

BLOCKSIZE_4BIT = 64
BLOCKSIZE_8BIT = 256
WEIGHT_SCALE = 0.02  # standard deviation, that of language models' linear layers


@dataclass(frozen=True)
class Linear:
    """y = x Wᵀ with W in NF4, blocks of 64, float32 scales.

    Attributes:
        x: [M, K], float32 or bfloat16.
        packed: uint8 [N, K/2].
        state: how `packed` maps to W.
    """

    x: Tensor
    packed: Tensor
    state: kq.QuantState

    @classmethod
    def make(cls, M: int, N: int, K: int, dtype: torch.dtype, plan: Plan) -> Linear:
        """Random operands."""
        weight = gaussian(plan.size(N), plan.size(K), scale=WEIGHT_SCALE)
        packed, state = kq.quantize_4bit(weight, blocksize=BLOCKSIZE_4BIT)
        return cls(gaussian(M, plan.size(K), dtype=dtype), packed, state)

    def copy(self) -> Linear:
        """The same weight in other memory; x, which is small and was just computed, is shared."""
        state = replace(self.state, absmax=self.state.absmax.clone())
        return replace(self, packed=self.packed.clone(), state=state)

    def decoded(self) -> Tensor:
        """W in float32, [N, K]."""
        weight: Tensor = kq.dequantize_4bit(self.packed, self.state).float()
        return weight

    def judge(self, x: Tensor, y: Tensor) -> Verdict:
        """Whether y is x Wᵀ, within the bounds.

        Args:
            x: as the contender reads it.
            y: its result.
        """
        return checks.linear_4bit(x, self.packed, self.state.absmax, y, self.state.blocksize)

    @property
    def recorded(self) -> Linear:
        """The same with an x that requires a gradient."""
        return replace(self, x=self.x.clone().requires_grad_())

    @property
    def traffic(self) -> int:
        """Bytes of the quantized weight."""
        return nbytes(self.packed, self.state.absmax)

    @property
    def flops(self) -> int:
        """A multiplication and an addition for each product."""
        return 2 * len(self.x) * self.state.shape.numel()

    @property
    def series(self) -> str:
        """What works that differ in M alone have in common."""
        N, K = self.state.shape
        return f"{N} x {K}, {dtype_name(self.x.dtype)}"

    def __str__(self) -> str:
        return f"M = {len(self.x)}, {self.series}"


class Layer(Protocol):
    """What training asks of a layer's forward product."""

    @property
    def traffic(self) -> int:
        """Bytes of the quantized weight."""

    @property
    def flops(self) -> int:
        """Operations."""


L = TypeVar("L", bound=Layer)


@dataclass(frozen=True)
class ForwardBackward(Generic[L]):
    """Forward and backward of a frozen linear layer: y = x Wᵀ, then the gradient of x.

    Attributes:
        linear: W and x.
        grad: gradient of y, [M, N] in the dtype of x.
    """

    linear: L
    grad: Tensor

    @property
    def traffic(self) -> int:
        """Bytes of the quantized weight, read by forward and by backward."""
        return 2 * self.linear.traffic

    @property
    def flops(self) -> int:
        """Two products of the same size."""
        return 2 * self.linear.flops

    def __str__(self) -> str:
        return str(self.linear)


@dataclass(frozen=True)
class Training(ForwardBackward[Linear]):
    """That of a layer in NF4."""

    @classmethod
    def make(cls, M: int, N: int, K: int, dtype: torch.dtype, plan: Plan) -> Training:
        """Random operands."""
        linear = Linear.make(M, N, K, dtype, plan)
        grad = gaussian(len(linear.x), linear.state.shape[0], dtype=dtype)
        return cls(linear.recorded, grad)

    def judge(self, x: Tensor, y: Tensor, grad: Tensor, grad_x: Tensor) -> Verdict:
        """Both products within the bounds.

        Args:
            x: as the contender reads it.
            y: its result.
            grad: the gradient of y, as it reads it.
            grad_x: the gradient of x.
        """
        state = self.linear.state
        return checks.linear_4bit_training(
            x, self.linear.packed, state.absmax, y, grad, grad_x, state.blocksize
        )


@dataclass(frozen=True)
class Coding:
    """Quantize a matrix, or bring it back.

    Attributes:
        source: float32 or bfloat16, [R, C]; also where decoding writes to if `reuse`.
        codes: the quantized matrix.
        state: how `codes` map to values.
        reuse: whether the result goes to memory that exists, instead of fresh memory.
    """

    source: Tensor
    codes: Tensor
    state: kq.QuantState
    reuse: bool

    @classmethod
    def make_4bit(cls, R: int, C: int, dtype: torch.dtype, reuse: bool, plan: Plan) -> Coding:
        """A random matrix and its NF4 codes in blocks of 64."""
        source = gaussian(plan.size(R), plan.size(C), dtype=dtype, scale=WEIGHT_SCALE)
        return cls(source, *kq.quantize_4bit(source, blocksize=BLOCKSIZE_4BIT), reuse)

    @classmethod
    def make_8bit(cls, R: int, C: int, dtype: torch.dtype, reuse: bool, plan: Plan) -> Coding:
        """A random matrix and its 8-bit codes (signed dynamic map) in blocks of 256."""
        source = gaussian(plan.size(R), plan.size(C), dtype=dtype, scale=WEIGHT_SCALE)
        return cls(source, *kq.quantize_blockwise(source, blocksize=BLOCKSIZE_8BIT), reuse)

    def copies(self, plan: Plan) -> Iterator[Coding]:
        """The same operands in other memory, in turn."""

        def make() -> Coding:
            state = replace(self.state, absmax=self.state.absmax.clone())
            return replace(self, source=self.source.clone(), codes=self.codes.clone(), state=state)

        return rotate(make, self.traffic, plan.working_set)

    @property
    def traffic(self) -> int:
        """Bytes of the matrix, its codes and its scales: what quantizing or decoding moves."""
        return nbytes(self.source, self.codes, self.state.absmax)

    def __str__(self) -> str:
        R, C = self.source.shape
        output = "reused output" if self.reuse else "fresh output"
        return f"{R} x {C}, {dtype_name(self.source.dtype)}, {output}"


@dataclass(frozen=True)
class Optimizing:
    """An optimizer on parameters with gradients that stay.

    Attributes:
        params: first values, float32.
        grads: float32, in the shapes of `params`; all contenders read the same.
        rule: the rule of the reference: "adam" (AdamW), "lion" or "momentum".
        hyper: hyperparameters.
    """

    params: tuple[Tensor, ...]
    grads: tuple[Tensor, ...]
    rule: str
    hyper: Hyper

    @classmethod
    def make(cls, shapes: Sequence[tuple[int, ...]], plan: Plan, rule: str = "adam") -> Optimizing:
        """Random operands: a parameter of each shape."""
        sized = [tuple(plan.size(length) for length in shape) for shape in shapes]
        # In reverse: the generator is seeded alike, and a gradient that is a multiple of its
        # parameter would be a special case.
        grads = [gaussian(*shape, scale=0.001).flip(0) for shape in sized]
        decay = {} if rule == "momentum" else {"weight_decay": 0.01, "decoupled": True}
        hyper = RULES[rule].hyper(**decay)
        params = [gaussian(*shape, scale=WEIGHT_SCALE) for shape in sized]
        return cls(tuple(params), tuple(grads), rule, hyper)

    def parameters(self) -> list[nn.Parameter]:
        """Parameters of its own for a contender, with their gradients."""
        made = [nn.Parameter(param.clone()) for param in self.params]
        for param, grad in zip(made, self.grads, strict=True):
            param.grad = grad
        return made

    @property
    def options(self) -> dict[str, Any]:
        """The hyperparameters as optimizers take them."""
        own: dict[str, Any] = dict(self.hyper.own)
        if "beta1" in own:
            own["betas"] = own.pop("beta1"), own.pop("beta2")
        if "nesterov" in own:
            own["nesterov"] = bool(own["nesterov"])
        return {"lr": self.hyper.lr, "weight_decay": self.hyper.weight_decay, **own}

    def traffic(self, state_bytes: int) -> int:
        """Bytes that a step moves: reads gradient, parameter and state, and writes the last two."""
        read = sum(grad.nbytes for grad in self.grads)
        return read + 2 * (sum(param.nbytes for param in self.params) + state_bytes)

    def __str__(self) -> str:
        size = sum(param.numel() for param in self.params)
        tensors = f" in {len(self.params)} tensors" if len(self.params) > 1 else ""
        return f"{size / 1e6:.3g} million parameters, float32{tensors}"
