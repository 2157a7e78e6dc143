"""The registered ops: opcheck, torch.compile, torch.export, fake kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import kq_functional as kq

ops = torch.ops.kq
CODE = kq.create_dynamic_map()
A = torch.randn(5, 70, generator=torch.Generator().manual_seed(0))
PACKED, STATE = kq.quantize_4bit(A)
PACKED_NESTED, NESTED = kq.quantize_4bit(A, compress_statistics=True)
CODES, STATE8 = kq.quantize_blockwise(A, blocksize=50)
EXPERTS = torch.randn(3, 5, 70, generator=torch.Generator().manual_seed(2))
PACKED_EXPERTS, EXPERTS_STATE = kq.quantize_4bit(EXPERTS, compress_statistics=True)
FLAT_EXPERTS, FLAT_EXPERTS_STATE = kq.quantize_4bit(EXPERTS, layout="flat")
CODES8, ABSMAX8, _ = kq.int8_vectorwise_quant(A)
SUMS8 = kq.int8_linear_matmul(CODES8, CODES8)
COUNTS = torch.tensor([4, 0, 2])
FLAT, FLAT_STATE = kq.quantize_4bit(A, layout="flat")
FORMAT = 64, "nf4", "row"
OPTIONS = {
    "lr": 1e-3,
    "beta1": 0.9,
    "beta2": 0.99,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "decoupled": True,
    "maximize": False,
}
STEP_OPTIONS = {
    "lr": 1e-3,
    "weight_decay": 0.1,
    "decoupled": True,
    "maximize": False,
    "grad_scale": 1.0,
    "rounding": "nearest",
    "corrections": [],
    "seeds": [],
    "hyper": [0.9, 0.99, 1e-8],
}


def activations(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


def optimizer_arguments() -> tuple[Any, ...]:
    params = [torch.ones(300), torch.ones(7, 3)]
    grads = [torch.ones_like(p) for p in params]
    codes = [torch.zeros(p.shape, dtype=torch.uint8) for p in params * 2]
    absmax = [torch.zeros((p.numel() + 255) // 256) for p in params * 2]
    return params, grads, codes, absmax


def samples() -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    params, grads, codes, absmax = optimizer_arguments()
    halves = [p.bfloat16() for p in params]
    corrections = [torch.zeros(p.shape, dtype=torch.int8) for p in params]
    nested = NESTED.scales
    shape = (5, 70)
    absmax_experts, *nested_experts = EXPERTS_STATE.scales
    experts = (PACKED_EXPERTS, absmax_experts, COUNTS, (3, 5, 70), *FORMAT, *nested_experts)
    new = torch.empty_like
    return {
        "quantize_4bit": (ops.quantize_4bit.default, (A, *FORMAT), {}),
        "quantize_4bit.out": (
            ops.quantize_4bit.out,
            (A, *FORMAT),
            {"packed": new(PACKED), "absmax": new(STATE.absmax)},
        ),
        "dequantize_4bit": (
            ops.dequantize_4bit.default,
            (PACKED, STATE.absmax, shape, *FORMAT, torch.bfloat16),
            {},
        ),
        "dequantize_4bit nested": (
            ops.dequantize_4bit.default,
            (PACKED_NESTED, nested.absmax, shape, *FORMAT, torch.float16, *nested[1:]),
            {},
        ),
        "dequantize_4bit.out": (
            ops.dequantize_4bit.out,
            (PACKED, STATE.absmax, shape, *FORMAT),
            {"out": new(A)},
        ),
        "quantize_blockwise": (ops.quantize_blockwise.default, (A, CODE, 50, "row"), {}),
        "quantize_blockwise.out": (
            ops.quantize_blockwise.out,
            (A, CODE, 50, "row"),
            {"codes": new(CODES), "absmax": new(STATE8.absmax)},
        ),
        "dequantize_blockwise": (
            ops.dequantize_blockwise.default,
            (CODES, CODE, STATE8.absmax, 50, "row", torch.float32),
            {},
        ),
        "dequantize_blockwise.out": (
            ops.dequantize_blockwise.out,
            (CODES, CODE, STATE8.absmax, 50, "row"),
            {"out": new(A)},
        ),
        "linear_4bit": (
            ops.linear_4bit.default,
            (activations(2, 3, 70), PACKED, STATE.absmax, activations(5), shape, *FORMAT),
            {},
        ),
        "linear_4bit nested": (
            ops.linear_4bit.default,
            (activations(3, 70), PACKED, nested.absmax, None, shape, *FORMAT, *nested[1:]),
            {},
        ),
        "linear_4bit flat": (
            ops.linear_4bit.default,
            (activations(3, 70), FLAT, FLAT_STATE.absmax, None, shape, 64, "nf4", "flat"),
            {},
        ),
        "linear_4bit.inference": (
            ops.linear_4bit.inference,
            (torch.ones(3, 70), PACKED, STATE.absmax, torch.ones(5), shape, *FORMAT),
            {},
        ),
        "linear_4bit_backward": (
            ops.linear_4bit_backward.default,
            (activations(3, 5), PACKED, STATE.absmax, shape, *FORMAT),
            {},
        ),
        "linear_4bit_grouped": (
            ops.linear_4bit_grouped.default,
            (activations(6, 70), *experts[:2], activations(3, 5), *experts[2:]),
            {},
        ),
        "linear_4bit_grouped flat": (
            ops.linear_4bit_grouped.default,
            (
                *(activations(6, 70), FLAT_EXPERTS, FLAT_EXPERTS_STATE.absmax, None, COUNTS),
                *((3, 5, 70), 64, "nf4", "flat"),
            ),
            {},
        ),
        "linear_4bit_grouped.inference": (
            ops.linear_4bit_grouped.inference,
            (torch.ones(6, 70), *experts[:2], torch.ones(3, 5), *experts[2:]),
            {},
        ),
        "linear_4bit_grouped_backward": (
            ops.linear_4bit_grouped_backward.default,
            (activations(6, 5), *experts),
            {},
        ),
        "grouped_sum": (ops.grouped_sum.default, (activations(6, 5), COUNTS), {}),
        "int8_vectorwise_quant": (ops.int8_vectorwise_quant.default, (A, 0.0), {}),
        "int8_vectorwise_quant threshold": (ops.int8_vectorwise_quant.default, (A, 2.0), {}),
        "int8_columnwise_quant": (ops.int8_columnwise_quant.default, (A, 0.0), {}),
        "int8_columnwise_quant threshold": (ops.int8_columnwise_quant.default, (A, 2.0), {}),
        "int8_vectorwise_dequant": (
            ops.int8_vectorwise_dequant.default,
            (CODES8, ABSMAX8, torch.bfloat16),
            {},
        ),
        "int8_linear_matmul": (ops.int8_linear_matmul.default, (CODES8, CODES8), {}),
        "int8_mm_dequant": (
            ops.int8_mm_dequant.default,
            (SUMS8, ABSMAX8, ABSMAX8, torch.ones(5), torch.float32),
            {},
        ),
        "int8_linear": (
            ops.int8_linear.default,
            (activations(2, 3, 70), CODES8, ABSMAX8, activations(5), 0.0),
            {},
        ),
        "int8_linear threshold": (
            ops.int8_linear.default,
            (activations(3, 70), CODES8, ABSMAX8, None, 2.0),
            {},
        ),
        "int8_linear.inference": (
            ops.int8_linear.inference,
            (torch.ones(3, 70), CODES8, ABSMAX8, torch.ones(5), 0.0),
            {},
        ),
        "int8_linear_backward": (
            ops.int8_linear_backward.default,
            (activations(3, 5), CODES8, ABSMAX8),
            {},
        ),
        "int8_outlier_gradient": (
            ops.int8_outlier_gradient.default,
            (torch.ones(5, 3), A, A[0] > 0.5),
            {},
        ),
        "optimizer_step_8bit": (
            ops.optimizer_step_8bit.default,
            ("adam", params, grads, codes, absmax, [CODE, CODE], [1, 2]),
            STEP_OPTIONS,
        ),
        "optimizer_step_32bit": (
            ops.optimizer_step_32bit.default,
            ("adam", params, grads, [torch.zeros_like(p) for p in params * 2], [1, 2]),
            STEP_OPTIONS,
        ),
        "optimizer_step_8bit corrected": (
            ops.optimizer_step_8bit.default,
            ("adam", halves, halves, codes, absmax, [CODE, CODE], [1, 2]),
            STEP_OPTIONS | {"rounding": "corrected", "corrections": corrections},
        ),
        "optimizer_step_32bit stochastic": (
            ops.optimizer_step_32bit.default,
            ("lion", halves, halves, [torch.zeros_like(p) for p in params], [1, 2]),
            STEP_OPTIONS | {"rounding": "stochastic", "seeds": [3, 4], "hyper": [0.9, 0.99]},
        ),
        "cascade_mean": (ops.cascade_mean.default, (A,), {}),
    }


@pytest.mark.parametrize("name", samples())
def test_opcheck(name: str) -> None:
    torch.library.opcheck(*samples()[name])


def test_every_op_is_checked() -> None:
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("kq::")}
    assert {f"kq::{name.split()[0]}" for name in samples()} == registered


@pytest.mark.parametrize("name", samples())
def test_fake_kernel_refuses_what_the_real_one_refuses(name: str) -> None:
    """A dtype that no op takes, traced: the error is the same as in eager mode."""
    op, arguments, options = samples()[name]

    def widen(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.double()
        return [widen(v) for v in value] if isinstance(value, list) else value

    def call(arguments: Any) -> str:
        with pytest.raises(TypeError, match=r"must be") as caught:
            op(*[widen(v) for v in arguments], **{k: widen(v) for k, v in options.items()})
        return str(caught.value)

    eager = call(arguments)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert call(arguments) == eager


@pytest.mark.parametrize("compiler", ["inductor", "aot_eager"])
def test_compile_linear_forward_and_backward(compiler: str) -> None:
    def loss(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return kq.linear_4bit(x * 2, PACKED_NESTED, NESTED, bias)

    compiled = torch.compile(loss, fullgraph=True, backend=compiler)
    results = []
    for function in (loss, compiled):
        x, bias = activations(2, 3, 70), activations(5)
        y = function(x, bias)
        y.backward(torch.ones_like(y))
        results.append((y, x.grad, bias.grad))
    for eager, traced in zip(*results, strict=True):
        # Sums of small integers and products by 2 are exact, and the op itself is the same call.
        assert torch.equal(eager, traced)


@pytest.mark.parametrize("compiler", ["inductor", "aot_eager"])
def test_compile_grouped_forward_and_backward(compiler: str) -> None:
    """One graph holds for any distribution of the rows, with counts as a tensor."""

    def loss(x: torch.Tensor, counts: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return kq.linear_4bit_grouped(x * 2, PACKED_EXPERTS, EXPERTS_STATE, counts, bias)

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=compiler)
    for counts in ([4, 0, 2], [0, 6, 0], [1, 2, 3]):
        results = []
        for function in (loss, compiled):
            x, bias = activations(6, 70), activations(3, 5)
            with torch._dynamo.config.patch(error_on_recompile=counts != [4, 0, 2]):
                y = function(x, torch.tensor(counts), bias)
            y.backward(torch.ones_like(y))
            results.append((y, x.grad, bias.grad))
        for eager, traced in zip(*results, strict=True):
            assert torch.equal(eager, traced)


def test_compile_grouped_with_counts_in_a_list() -> None:
    def forward(x: torch.Tensor, counts: list[int]) -> torch.Tensor:
        return kq.linear_4bit_grouped(x, PACKED_EXPERTS, EXPERTS_STATE, counts)

    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
    x = activations(6, 70).detach()
    for counts in ([4, 0, 2], [1, 2, 3], [2, 2, 2]):
        assert torch.equal(compiled(x, counts), forward(x, counts))


def test_compile_under_autocast_and_no_grad() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return kq.linear_4bit(x, PACKED, STATE)

    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        x = activations(3, 70)
        assert torch.equal(compiled(x), forward(x))


def test_compile_quantize_and_dequantize() -> None:
    def round_trip(A: torch.Tensor) -> Any:
        packed, state = kq.quantize_4bit(A, compress_statistics=True)
        codes, state8 = kq.quantize_blockwise(A, nested=True, blocksize=30)
        return (
            kq.dequantize_4bit(packed, state),
            kq.dequantize_blockwise(codes, state8),
            packed,
            state,
        )

    compiled = torch.compile(round_trip, fullgraph=True, backend="aot_eager")
    traced, eager = compiled(A), round_trip(A)
    assert all(torch.equal(a, b) for a, b in zip(traced[:3], eager[:3], strict=True))
    assert isinstance(traced[3], kq.QuantState)
    assert torch.equal(traced[3].absmax, eager[3].absmax)


def test_compile_out_and_in_place_ops() -> None:
    def decode(packed: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return kq.dequantize_4bit(packed, STATE, out=out) + 1

    out, expected = torch.empty(5, 70), torch.empty(5, 70)
    compiled = torch.compile(decode, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(PACKED, out), decode(PACKED, expected))
    assert torch.equal(out, expected)

    def step(params: Any, grads: Any, codes: Any, absmax: Any) -> None:
        kq.optimizer_step_8bit(
            "adam", params, grads, codes, absmax, [CODE, CODE], [1, 2], **OPTIONS
        )

    eager, traced = optimizer_arguments(), optimizer_arguments()
    step(*eager)
    torch.compile(step, fullgraph=True, backend="aot_eager")(*traced)
    for a, b in zip(eager, traced, strict=True):
        assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


def test_compile_a_step_without_grad_and_with_corrections() -> None:
    """Where an eager call would go past the dispatcher."""

    def step(params: Any, grads: Any, states: Any, corrections: Any) -> None:
        with torch.no_grad():
            kq.optimizer_step_32bit(
                "lion",
                *(params, grads, states, [1, 2]),
                lr=1e-3,
                beta1=0.9,
                beta2=0.99,
                rounding="corrected",
                corrections=corrections,
            )

    def arguments() -> tuple[Any, ...]:
        shapes = [(300,), (7, 3)]
        return (
            [torch.ones(s).bfloat16() for s in shapes],
            [torch.full(s, -1.0).bfloat16() for s in shapes],
            [torch.zeros(s) for s in shapes],
            [torch.zeros(s, dtype=torch.int8) for s in shapes],
        )

    eager, traced = arguments(), arguments()
    step(*eager)
    torch.compile(step, fullgraph=True, backend="aot_eager")(*traced)
    assert eager[3][0].any()
    for a, b in zip(eager, traced, strict=True):
        assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("packed", PACKED)
        self.register_buffer("absmax", STATE.absmax)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = kq.QuantState(self.absmax, torch.Size((5, 70)), x.dtype, 64, "nf4", STATE.code)
        return kq.linear_4bit(x, self.packed, state)


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_batch(strict: bool) -> None:
    layer = Layer()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(
        layer, (torch.ones(3, 70),), dynamic_shapes=(batch,), strict=strict
    )
    x = activations(11, 70).detach()
    assert torch.equal(program.module()(x), layer(x))


def test_meta_tensors_of_experts() -> None:
    packed, state = kq.quantize_4bit(torch.empty(2, 6, 71, device="meta"))
    x = torch.empty(4, 71, device="meta").requires_grad_()
    bias = torch.empty(2, 6, device="meta").requires_grad_()
    for counts in ([1, 3], torch.empty(2, dtype=torch.int64, device="meta")):
        y = kq.linear_4bit_grouped(x, packed, state, counts, bias)
        assert y.shape == (4, 6)
        y.sum().backward()
    assert x.grad.shape == x.shape
    assert bias.grad.shape == bias.shape


def test_meta_tensors() -> None:
    packed, state = kq.quantize_4bit(torch.empty(6, 71, device="meta"), compress_statistics=True)
    assert packed.shape == (6, 36)
    assert {t.device.type for t in (packed, *state.scales)} == {"meta"}
    assert kq.dequantize_4bit(packed, state).shape == (6, 71)
    y = kq.linear_4bit(torch.empty(2, 71, device="meta"), packed, state)
    assert y.shape == (2, 6)
    assert y.device.type == "meta"
