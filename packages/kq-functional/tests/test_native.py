"""The native backend: the bits of the torch backend, on any number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import kq_functional as kq
from kq_functional import registry
from kq_functional.backends.base import Backend, Scales

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
QUANT_TYPES = ["nf4", "fp4"]
NATIVE = next(record for record in kq.backends() if record.name == "native")

pytestmark = pytest.mark.skipif(NATIVE.status != "loaded", reason=f"native: {NATIVE.error}")


@pytest.fixture
def native() -> Backend:
    return registry.load_or_raise("native")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("quant_type", QUANT_TYPES)
@pytest.mark.parametrize(
    ("shape", "blocksize"), [((37, 129), 64), ((8, 1024), 128), ((3, 5000), 4096), ((9000,), 32)]
)
def test_native_and_torch_agree(
    dtype: torch.dtype, nested: bool, quant_type: str, shape: tuple[int, ...], blocksize: int
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    results = []
    for name in ("torch", "native"):
        with kq.use_backend(name):
            packed, state = kq.quantize_4bit(
                x, blocksize=blocksize, quant_type=quant_type, compress_statistics=nested
            )
            decoded = kq.dequantize_4bit(packed, state)
            codes, state8 = kq.quantize_blockwise(x, blocksize=blocksize, nested=nested)
            decoded8 = kq.dequantize_blockwise(codes, state8)
            scales = [t for s in (state, state8) for t in s.scales if t is not None]
            results.append([packed, decoded, codes, decoded8, *scales])
    for torch_result, native_result in zip(*results, strict=True):
        assert torch.equal(torch_result, native_result)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_threads_do_not_change_a_bit(dtype: torch.dtype, rows: int) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(130, 1000, generator=generator)
    x = torch.randn(rows, 1000, generator=generator).to(dtype)
    grad = torch.randn(rows, 130, generator=generator).to(dtype)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        with kq.use_backend("native"):
            packed, state = kq.quantize_4bit(weight, compress_statistics=True)
            x_grad = x.clone().requires_grad_()
            y = kq.linear_4bit(x_grad, packed, state)
            y.backward(grad)
            results.append([packed, state.absmax, state.offset, y, x_grad.grad])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    "A",
    [
        torch.ones(64, 4).t(),
        torch.ones(1, 64).expand(4, -1),
        torch.ones(256).as_strided((4, 64), (63, 1)),
    ],
    ids=["transposed", "repeated", "overlapping"],
)
def test_strides_outside_of_the_contract_are_refused(native: Backend, A: torch.Tensor) -> None:
    """The kernels get addresses, so a mistake here would be one in memory."""
    packed, absmax = torch.empty(4, 32, dtype=torch.uint8), torch.empty(4, 1)
    with pytest.raises(ValueError, match=r"A must have the strides \(at least 64, 1\), got"):
        native.quantize_4bit(A, packed, absmax, quant_type="nf4", blocksize=64)


def test_other_devices_are_refused(native: Backend) -> None:
    x, absmax = torch.ones(2, 64, device="meta"), torch.ones(2, 1)
    packed, scales = torch.zeros(2, 32, dtype=torch.uint8), Scales(absmax)
    with pytest.raises(NotImplementedError, match=r"takes CPU tensors .* got float32 on meta"):
        native.quantize_4bit(x, packed, absmax, quant_type="nf4", blocksize=64)
    with pytest.raises(NotImplementedError, match="got float32 on meta"):
        native.dequantize_4bit(packed, scales, x, quant_type="nf4", blocksize=64)
    assert not packed.any()
