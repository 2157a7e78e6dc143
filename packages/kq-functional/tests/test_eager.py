"""The short way of linear_4bit: the bits of the op, and only where nobody can tell."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import kq_functional as kq
from kq_functional import eager, linear
from kq_functional.backends.native import NativeBackend

NATIVE = next(record for record in kq.backends() if record.name == "native")

pytestmark = pytest.mark.skipif(NATIVE.status != "loaded", reason=f"native: {NATIVE.error}")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
OPS = ("linear_4bit", "linear_4bit_backward")
N, K = 24, 128


def randn(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weight(n: int = N, k: int = K, **options: Any) -> tuple[Tensor, kq.QuantState]:
    return kq.quantize_4bit(randn(n, k), **options)


def through_the_op(
    x: Tensor, packed: Tensor, state: kq.QuantState, bias: Tensor | None = None
) -> Tensor:
    return linear._dispatched(
        x, bias, packed, state.scales, state.shape, state.blocksize, state.quant_type, state.layout
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the native backend as they are called: with "_unchecked", the short way."""
    seen: list[str] = []

    def spy(name: str) -> None:
        real = getattr(NativeBackend, name)

        def call(self: NativeBackend, *args: Any, **options: Any) -> Any:
            result = real(self, *args, **options)  # a refusal is not counted
            seen.append(name)
            return result

        monkeypatch.setattr(NativeBackend, name, call)

    for op in OPS:
        spy(op)
        spy(f"{op}_unchecked")
    return seen


def test_this_torch_has_what_the_short_way_asks_for() -> None:
    assert eager.AVAILABLE


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("lead", "n", "k", "options"),
    [
        ((1,), N, K, {}),
        ((), 5, 33, {"quant_type": "fp4", "blocksize": 32}),
        ((2, 1, 3), 33, 71, {}),
        ((40,), 7, 256, {"layout": "flat"}),
        ((1,), 1, 1, {}),
    ],
)
def test_the_bits_of_the_op(
    calls: list[str],
    lead: tuple[int, ...],
    n: int,
    k: int,
    options: dict,
    with_bias: bool,
    nested: bool,
    dtype: torch.dtype,
) -> None:
    packed, state = weight(n, k, compress_statistics=nested, **options)
    grad = randn(*lead, n, seed=2).to(dtype)
    results = []
    for multiply in (kq.linear_4bit, through_the_op):
        x = randn(*lead, k).to(dtype)
        bias = randn(n, seed=1).to(dtype) if with_bias else None
        plain = multiply(x, packed, state, bias)
        leaves = [t.requires_grad_() for t in (x, bias) if t is not None]
        recorded = multiply(x, packed, state, bias)
        results.append([plain, recorded, *torch.autograd.grad(recorded, leaves, grad)])
        assert not plain.requires_grad
        assert [t.shape for t in results[-1]] == [
            grad.shape,
            grad.shape,
            *(t.shape for t in leaves),
        ]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert torch.equal(results[0][0], results[0][1])
    short = ["linear_4bit_unchecked", "linear_4bit_unchecked", "linear_4bit_backward_unchecked"]
    # The backward of the op goes the short way too: it is a plain call.
    assert calls == [*short, "linear_4bit", "linear_4bit", "linear_4bit_backward_unchecked"]


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    """Notes the ops that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Subclass(Tensor):
    pass


CONTEXTS: dict[str, Callable[[], AbstractContextManager]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "function mode": FunctionMode,
    "dispatch mode": DispatchMode,
    "default device": lambda: torch.device("cpu"),
    "profiler": profile,
    "forward-mode differentiation": forward_ad.dual_level,
}


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_contexts_that_see_the_op(calls: list[str], requires_grad: bool, name: str) -> None:
    packed, state = weight()
    x = randn(3, K).requires_grad_(requires_grad)
    with CONTEXTS[name]():
        y = kq.linear_4bit(x, packed, state)
        assert calls == ["linear_4bit"]
        assert torch.equal(y, through_the_op(x, packed, state))
    assert y.requires_grad == requires_grad
    kq.linear_4bit(x, packed, state)
    assert calls[-1] == "linear_4bit_unchecked"


# Tensor.backward is itself a function that a function mode sees: what runs in it, it does not.
@pytest.mark.parametrize("name", sorted(CONTEXTS.keys() - {"function mode", "default device"}))
def test_contexts_of_the_backward_alone(calls: list[str], name: str) -> None:
    packed, state = weight()
    x = randn(3, K).requires_grad_()
    y = kq.linear_4bit(x, packed, state)
    with CONTEXTS[name]():
        y.backward(randn(3, N))
    assert calls == ["linear_4bit_unchecked", "linear_4bit_backward"]


def test_modes_and_profilers_see_the_op() -> None:
    packed, state = weight()
    x = randn(3, K).requires_grad_()
    with DispatchMode() as mode:
        kq.linear_4bit(x, packed, state).backward(randn(3, N))
    assert [op for op in mode.seen if op.startswith("kq")] == [
        "kq.linear_4bit.default",
        "kq.linear_4bit_backward.default",
    ]
    with profile() as report:
        kq.linear_4bit(x, packed, state)
    assert "kq::linear_4bit" in {event.name for event in report.events()}


def test_transforms(calls: list[str]) -> None:
    packed, state = weight()
    x, bias = randn(3, 2, K), randn(N, seed=1)
    expected = torch.stack([through_the_op(rows, packed, state, bias) for rows in x])
    for vmap in (torch.func.vmap, torch._vmap_internals._vmap):
        y = vmap(lambda rows: kq.linear_4bit(rows, packed, state, bias))(x)
        assert torch.equal(y, expected)
        y = vmap(lambda one: kq.linear_4bit(x[0], packed, state, one))(bias.expand(2, -1))
        assert torch.equal(y[1], expected[0])
    assert "linear_4bit_unchecked" not in calls


def test_what_outlived_its_transform() -> None:
    """Such a wrapper looks like a plain tensor but has no memory of its own."""
    packed, state = weight()
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x.sum()

    x = randn(3, K)
    torch.func.grad(keep)(x)
    with torch.no_grad():
        assert torch.equal(kq.linear_4bit(kept[0], packed, state), kq.linear_4bit(x, packed, state))
    bias = torch.zeros(N, requires_grad=True)
    y = kq.linear_4bit(kept[0], packed, state, bias)
    assert torch.equal(y, kq.linear_4bit(x, packed, state))


def test_batched_gradients() -> None:
    packed, state = weight()
    x, grads = randn(3, K).requires_grad_(), randn(4, 3, N)
    y = kq.linear_4bit(x, packed, state)
    many = torch.autograd.grad(y, x, grads, is_grads_batched=True, retain_graph=True)[0]
    one_by_one = [torch.autograd.grad(y, x, grad, retain_graph=True)[0] for grad in grads]
    assert torch.equal(many, torch.stack(one_by_one))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("short", [False, True])
def test_scales_as_bits(nested: bool, short: bool, calls: list[str]) -> None:
    """Parts may hold them so, as modules do; a QuantState may not: its integers are a mistake."""
    packed, state = weight(compress_statistics=nested)
    as_bits = [
        t.view(torch.int32)
        if t is not None and t.dtype == torch.float32 and t.numel() != 256
        else t
        for t in state.scales
    ]
    x = randn(3, K)
    backend = kq.use_backend("native" if short else "torch")
    with backend:
        expected = kq.linear_4bit(x, packed, state)
        calls.clear()
        product = linear.linear_4bit_parts(
            x, packed, kq.Scales(*as_bits), None, (N, K), state.blocksize, "nf4"
        )
        assert calls == (["linear_4bit_unchecked"] if short else [])
        assert torch.equal(product, expected)
        if not nested:
            wrong = replace(state, absmax=state.absmax.view(torch.int32))
            with pytest.raises(TypeError, match="absmax"):
                kq.linear_4bit(x, packed, wrong)


def test_tracers(calls: list[str]) -> None:
    packed, state = weight()
    x = randn(3, K)

    def multiply(x: Tensor) -> Tensor:
        return kq.linear_4bit(x, packed, state)

    graph = make_fx(multiply)(x).graph
    assert any("kq.linear_4bit" in str(node.target) for node in graph.nodes)
    assert "kq::linear_4bit" in str(torch.jit.trace(multiply, x, check_trace=False).graph)
    assert torch.equal(torch.compile(multiply, fullgraph=True, backend="eager")(x), multiply(x))
    assert "linear_4bit_unchecked" not in calls[:-1]


@pytest.mark.parametrize("requires_grad", [False, True])
def test_fake_and_meta_tensors(requires_grad: bool) -> None:
    packed, state = weight()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(randn(3, K)).requires_grad_(requires_grad)
        inside = kq.linear_4bit(fake, packed, state)
    on_meta = [t.to("meta") for t in (randn(3, K), packed)]
    outside = kq.linear_4bit(on_meta[0].requires_grad_(requires_grad), on_meta[1], state.to("meta"))
    assert outside.is_meta
    assert type(inside) is type(fake)
    for y in (inside, outside):
        assert y.shape == (3, N)
        assert y.requires_grad == requires_grad


# What is done to an argument of the call; the op has an answer that the backend must not shortcut.
ODD: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "negated x": (0, torch._neg_view),
    "negated absmax": (2, torch._neg_view),
    "negated bias": (3, torch._neg_view),
    "subclass of x": (0, lambda t: t.as_subclass(Subclass)),
    "subclass of packed": (1, lambda t: t.as_subclass(Subclass)),
    "subclass of bias": (3, lambda t: t.as_subclass(Subclass)),
    "sliced x": (0, lambda t: torch.cat([t, t], -1)[..., :K]),
    "transposed x": (0, lambda t: t.t().contiguous().t()),
    "strided packed": (1, lambda t: t.repeat_interleave(2, -1)[:, ::2]),
    "strided absmax": (2, lambda t: t.repeat_interleave(2, -1)[:, ::2]),
    "strided bias": (3, lambda t: t.repeat_interleave(2)[::2]),
    "lazy zeros": (0, lambda t: torch._efficientzerotensor(t.shape)),
    "no rows": (0, lambda t: t[:0]),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("grad_mode", [False, True])
def test_odd_arguments(calls: list[str], grad_mode: bool, name: str) -> None:
    packed, state = weight()
    arguments = [randn(3, K), packed, state.absmax, randn(N, seed=1)]
    index, change = ODD[name]
    arguments[index] = change(arguments[index])
    x, packed, absmax, bias = arguments
    state = kq.QuantState(absmax, state.shape, state.dtype, 64, "nf4", state.code)
    with torch.set_grad_enabled(grad_mode):
        if grad_mode and name != "strided bias":
            bias = bias.detach().requires_grad_()
        y = kq.linear_4bit(x, packed, state, bias)
        expected = through_the_op(x, packed, state, bias)
    assert type(y) is type(expected)
    assert y.requires_grad == expected.requires_grad
    assert torch.equal(y, expected)
    assert "linear_4bit_unchecked" not in calls


WRONG: dict[str, Callable[..., tuple]] = {
    "x": lambda x, packed, state, bias: (x[:, 1:], packed, state, bias),
    "0-d x": lambda x, packed, state, bias: (x[0, 0], packed, state, bias),
    "dtype of x": lambda x, packed, state, bias: (x.double(), packed, state, bias),
    "integer x": lambda x, packed, state, bias: (x.int(), packed, state, bias),
    "quantized x": lambda x, packed, state, bias: (x.to_sparse(), packed, state, bias),
    "packed": lambda x, packed, state, bias: (x, packed[1:], state, bias),
    "dtype of packed": lambda x, packed, state, bias: (x, packed.int(), state, bias),
    "device of packed": lambda x, packed, state, bias: (x, packed.to("meta"), state, bias),
    "bias": lambda x, packed, state, bias: (x, packed, state, bias[1:]),
    "2-d bias": lambda x, packed, state, bias: (x, packed, state, bias[None]),
    "dtype of bias": lambda x, packed, state, bias: (x, packed, state, bias.half()),
    "no x": lambda *given: (None, *given[1:]),
    "no packed": lambda *given: (given[0], None, *given[2:]),
    "list": lambda x, packed, state, bias: (x.tolist(), packed, state, bias),
    "bias of another type": lambda x, packed, state, bias: (x, packed, state, bias.tolist()),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_errors_of_the_op(requires_grad: bool, name: str) -> None:
    packed, state = weight()
    arguments = WRONG[name](randn(3, K), packed, state, randn(N).requires_grad_(requires_grad))
    messages = []
    for multiply in (kq.linear_4bit, through_the_op):
        with pytest.raises((TypeError, ValueError, NotImplementedError, RuntimeError)) as caught:
            multiply(*arguments)
        messages.append((type(caught.value), str(caught.value)))
    assert messages[0] == messages[1]


def test_scales_that_require_a_gradient_get_the_warning_of_torch() -> None:
    packed, state = weight()
    state.absmax.requires_grad_()
    y = kq.linear_4bit(randn(3, K), packed, state)
    with pytest.warns(UserWarning, match="autograd kernel was not registered"):
        y.sum().backward()


def test_second_derivatives() -> None:
    packed, state = weight(compress_statistics=True)
    grad = randn(3, N, seed=2)
    results = []
    for multiply in (kq.linear_4bit, through_the_op):
        x, v = randn(3, K).requires_grad_(), grad.clone().requires_grad_()
        (grad_x,) = torch.autograd.grad(multiply(x, packed, state), x, v, create_graph=True)
        results.append([grad_x, *torch.autograd.grad(grad_x.square().sum(), v)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_only_what_is_needed_is_computed(calls: list[str]) -> None:
    packed, state = weight()
    x, bias = randn(3, K), torch.zeros(N, requires_grad=True)
    kq.linear_4bit(x, packed, state, bias).sum().backward()
    assert torch.equal(bias.grad, torch.full((N,), 3.0))
    assert calls == ["linear_4bit_unchecked"]


def test_the_same_is_saved_as_by_the_op() -> None:
    """So checkpointing may recompute in the other way than it computed."""
    packed, state = weight(compress_statistics=True)
    saved: list[list] = []
    for multiply in (kq.linear_4bit, through_the_op):
        saved.append([])
        with saved_tensors_hooks(lambda t: saved[-1].append((t.shape, t.dtype)) or t, lambda t: t):
            multiply(randn(3, K).requires_grad_(), packed, state)
    assert saved[0] == saved[1]
    x = randn(3, K).requires_grad_()
    y = checkpoint(kq.linear_4bit, x, packed, state, use_reentrant=False)
    with DispatchMode():
        y.sum().backward()
    assert x.grad is not None


def test_inference_tensors() -> None:
    with torch.inference_mode():
        packed, state = weight()
        x = randn(3, K)
        y = kq.linear_4bit(x, packed, state)
        assert y.is_inference()
    outside = kq.linear_4bit(x, packed, state)
    assert torch.equal(outside, y)
    assert not outside.is_inference()
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        kq.linear_4bit(x.clone().requires_grad_(), packed, state)


def test_compiled_autograd() -> None:
    packed, state = weight()
    x = randn(3, K).requires_grad_()
    kq.linear_4bit(x, packed, state).sum().backward()
    expected, x.grad = x.grad, None
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        kq.linear_4bit(x, packed, state).sum().backward()
    assert torch.equal(x.grad, expected)


def test_pins_hold_for_every_call(calls: list[str]) -> None:
    """The pin belongs to a thread, and is asked for each time."""
    packed, state = weight()
    x = randn(3, K)
    kq.linear_4bit(x, packed, state)
    with kq.use_backend("torch"):
        kq.linear_4bit(x, packed, state)
        assert calls == ["linear_4bit_unchecked"]
        other = threading.Thread(target=kq.linear_4bit, args=(x, packed, state))
        other.start()
        other.join()
        assert calls == ["linear_4bit_unchecked"] * 2
    kq.linear_4bit(x, packed, state)
    assert calls == ["linear_4bit_unchecked"] * 3
