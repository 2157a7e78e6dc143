"""What the short way of linear_4bit asks of a backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import kq_functional as kq
from kq_functional import registry, selection
from kq_functional.backends.base import Scales

NATIVE = next(record for record in kq.backends() if record.name == "native")

pytestmark = pytest.mark.skipif(NATIVE.status != "loaded", reason=f"native: {NATIVE.error}")

NAMES = ("name", "version", "capabilities", "describe", "linear_4bit", "linear_4bit_backward")
N, K = 24, 128


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[object], None]]:
    """Make an object the backend named "other"."""

    def add(backend: object) -> None:
        monkeypatch.setitem(registry._loaded, "other", registry.Loaded(backend=backend))

    yield add
    for key in [key for key in selection._choices if key[0] == "other"]:
        del selection._choices[key]


def test_a_backend_needs_no_short_way(register: Callable[[object], None]) -> None:
    native = registry.load_or_raise("native")
    register(SimpleNamespace(**{name: getattr(native, name) for name in NAMES}))
    packed, state = kq.quantize_4bit(randn(N, K))
    x = randn(3, K)
    with kq.use_backend("other"):
        y = kq.linear_4bit(x, packed, state)
    assert torch.equal(y, kq.linear_4bit(x, packed, state))


@pytest.mark.parametrize("refusal", [NotImplementedError, TypeError, ValueError])
def test_a_backend_may_refuse(register: Callable[[object], None], refusal: type) -> None:
    native = registry.load_or_raise("native")

    def refuse(*_: object, **__: object) -> None:
        raise refusal

    picky = SimpleNamespace(**{name: getattr(native, name) for name in NAMES})
    picky.linear_4bit_unchecked = picky.linear_4bit_backward_unchecked = refuse
    register(picky)
    packed, state = kq.quantize_4bit(randn(N, K))
    x = randn(3, K).requires_grad_()
    expected = torch.autograd.grad(kq.linear_4bit(x, packed, state).sum(), x)
    with kq.use_backend("other"):
        assert torch.equal(
            torch.autograd.grad(kq.linear_4bit(x, packed, state).sum(), x)[0], expected[0]
        )


# What could make a kernel read beyond the memory of an operand.
DAMAGE: list[Callable[[Tensor], Tensor]] = [
    lambda t: t.flatten()[:-1],
    lambda t: torch.cat([t.flatten(), t.flatten()[:1]]),
    lambda t: t.to(torch.float64),
    lambda t: t.to("meta"),
    lambda t: t.reshape(-1, 1).repeat(1, 2)[:, 0] if t.numel() > 1 else t.double(),
]


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
def test_the_native_backend_looks_at_what_nobody_checked(
    context: Callable[[], AbstractContextManager],
) -> None:
    """What a damaged weight or bias could make the kernels read beyond its memory is refused."""
    native = registry.load_or_raise("native")
    packed, state = kq.quantize_4bit(randn(N, K), compress_statistics=True)
    fit = [randn(3, K), packed, *state.scales, randn(N)]
    out = torch.zeros(3, N)

    def call(x: Tensor, packed: Tensor, *rest: Tensor) -> None:
        *scales, bias = rest
        native.linear_4bit_unchecked(
            x, packed, Scales(*scales), bias, out, shape=(N, K), quant_type="nf4", blocksize=64
        )

    with context():
        for i in range(1, len(fit)):
            for spoil in DAMAGE:
                with pytest.raises((TypeError, ValueError)):
                    call(*fit[:i], spoil(fit[i]), *fit[i + 1 :])
    assert not out.any()
    call(*fit)
    assert out.any()


def test_the_native_backend_looks_at_int8_weights_that_nobody_checked() -> None:
    """Likewise, of the short way of int8_linear."""
    native = registry.load_or_raise("native")
    codes, absmax, _ = kq.int8_vectorwise_quant(randn(N, K))
    fit = [randn(3, K), codes, absmax, randn(N)]
    out = torch.zeros(3, N)

    def call(*tensors: Tensor) -> None:
        native.int8_linear_unchecked(*tensors, out, threshold=0.0)

    # The caller promises the shape of the weight.
    spoilt = [(1, codes.double()), (1, codes.to("meta")), (1, codes.repeat(1, 2)[:, ::2])]
    spoilt += [(i, spoil(fit[i])) for i in (2, 3) for spoil in DAMAGE]
    for i, tensor in spoilt:
        with pytest.raises((TypeError, ValueError)):
            call(*fit[:i], tensor, *fit[i + 1 :])
    assert not out.any()
    call(*fit)
    assert out.any()
