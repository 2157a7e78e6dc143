"""Mistakes in the linear layer."""

from typing import Any

import numpy as np

from kq_conformance.floats import BFLOAT16, FLOAT16, FLOAT32, Array, Float64
from kq_conformance.mutants.mutant import killed_by
from kq_conformance.reference_backend import ReferenceBackend, format_of

__all__: list[str] = []

_WRAP = 1 << 16
_TILE = 32


@killed_by("linear_4bit/nf4/b64/bfloat16/m16-n48-k64")
class AccumulatesInBfloat16(ReferenceBackend):
    """The sum is rounded to bfloat16 after each addition."""

    def linear(self, x: Float64, weight: Float64, bias: Float64 | None) -> Float64:
        total = np.zeros((x.shape[0], weight.shape[0]))
        with np.errstate(invalid="ignore"):
            for a, b in zip(x.T, weight.T, strict=True):
                total = BFLOAT16.round(total + np.outer(a, b))
        return total if bias is None else total + bias


@killed_by("linear_4bit/nf4/b64/float16/m16-n48-k64")
class AccumulatesInFloat16(ReferenceBackend):
    """The sum is rounded to float16 after each addition."""

    def linear(self, x: Float64, weight: Float64, bias: Float64 | None) -> Float64:
        total = np.zeros((x.shape[0], weight.shape[0]))
        with np.errstate(invalid="ignore"):
            for a, b in zip(x.T, weight.T, strict=True):
                total = FLOAT16.round(total + np.outer(a, b))
        return total if bias is None else total + bias


@killed_by("linear_4bit/nf4/b64/float32/m16-n48-k64")
class InputInBfloat16(ReferenceBackend):
    """A float32 input is rounded to bfloat16, which matrix units take."""

    def linear(self, x: Float64, weight: Float64, bias: Float64 | None) -> Float64:
        return super().linear(BFLOAT16.round(x), weight, bias)


@killed_by("linear_4bit/nf4/b64/float32/m1-n48-k130", ledger="D13")
class ScalesRepackedInBfloat16(ReferenceBackend):
    """Weights are repacked for the kernel, and their scales kept in bfloat16."""

    def scales(self, scales: Any) -> Float64:
        return BFLOAT16.round(super().scales(scales))


@killed_by("linear_4bit/nf4/b64/float32/m16-n48-k64", ledger="D13")
class PaddingLost(ReferenceBackend):
    """Weights are repacked in tiles of 32 rows, and the rows of the last, short tile are lost."""

    def linear(self, x: Float64, weight: Float64, bias: Float64 | None) -> Float64:
        kept = weight.copy()
        kept[weight.shape[0] // _TILE * _TILE :] = 0
        return super().linear(x, kept, bias)


@killed_by("linear_4bit/nf4/b64/float32/m16-n48-k64", ledger="D10")
class FirstRowOnly(ReferenceBackend):
    """The product of a matrix and a vector is used for any number of rows."""

    def linear_4bit(self, x: Any, packed: Any, scales: Any, bias: Any, out: Any, **o: Any) -> None:
        super().linear_4bit(x[:1], packed, scales, bias, out[:1], **o)


@killed_by("linear_4bit/nf4/b64/float32/m5-n33-k257/bias")
class BiasTwice(ReferenceBackend):
    """The bias is the first number of the sum, and is added again behind it."""

    def linear(self, x: Float64, weight: Float64, bias: Float64 | None) -> Float64:
        return super().linear(x, weight, None if bias is None else 2 * bias)


@killed_by("linear_4bit/nf4/b64/float32/m5-n33-k257/bias")
class BiasForgottenInTheLastColumn(ReferenceBackend):
    """The bias is added by vectors, and not in the column that is left over."""

    def linear(self, x: Float64, weight: Float64, bias: Float64 | None) -> Float64:
        if bias is not None and bias.size:
            bias[-1] = 0
        return super().linear(x, weight, bias)


@killed_by("linear_4bit/nf4/b64/float32/m5-n33-k257")
class LastOfAnOddLengthForgotten(ReferenceBackend):
    """The sum goes over pairs of codes, and an odd length loses its last number."""

    def linear(self, x: Float64, weight: Float64, bias: Float64 | None) -> Float64:
        even = x.shape[1] // 2 * 2
        return super().linear(x[:, :even], weight[:, :even], bias)


@killed_by("linear_4bit/nf4/b64/float32/m4-n6-k130/bias/nonfinite")
class ZeroWeightsSkipped(ReferenceBackend):
    """Weights of zero are skipped, though zero times infinity is NaN."""

    def linear(self, x: Float64, weight: Float64, bias: Float64 | None) -> Float64:
        with np.errstate(invalid="ignore"):
            products = np.where(weight == 0, 0.0, x[:, None, :] * weight)
            total: Float64 = products.sum(axis=2)
        return total if bias is None else total + bias


@killed_by("linear_4bit/nf4/b64/float32/m2-n3-k65601")
class SummedIndexWraps(ReferenceBackend):
    """Stands for an overflow: the index of a number in a row of the input has 16 bits."""

    def linear(self, x: Float64, weight: Float64, bias: Float64 | None) -> Float64:
        return super().linear(x[:, np.arange(x.shape[1]) % _WRAP], weight, bias)


@killed_by("linear_4bit/nf4/b64/float32/m65541-n2-k33")
class IndexOfAnInputRowWraps(ReferenceBackend):
    """Stands for an overflow: the index of a row of the input has 16 bits."""

    def linear(self, x: Float64, weight: Float64, bias: Float64 | None) -> Float64:
        return super().linear(x[np.arange(x.shape[0]) % _WRAP], weight, bias)


@killed_by("linear_4bit/nf4/b64/float32/m2-n65601-k7/nested")
class IndexOfAnOutputWraps(ReferenceBackend):
    """Stands for an overflow: the index of a row of the weight has 16 bits."""

    def linear(self, x: Float64, weight: Float64, bias: Float64 | None) -> Float64:
        return super().linear(x, weight[np.arange(weight.shape[0]) % _WRAP], bias)


@killed_by("linear_4bit/nf4/b64/float32/m2-n65601-k7/nested")
class FirstNestedGroupOnly(ReferenceBackend):
    """The linear layer decodes nested scales by itself, as if there were one group of them."""

    _in_linear = False

    def linear_4bit(self, *tensors: Any, **options: Any) -> None:
        self._in_linear = True
        super().linear_4bit(*tensors, **options)
        self._in_linear = False

    def nested(self, codes: Array, absmax: Float64, code: Float64, offset: float) -> Float64:
        if self._in_linear:
            absmax = np.broadcast_to(absmax[:1], absmax.shape)
        return super().nested(codes, absmax, code, offset)


def _summed(products: Array) -> Float64:
    """Add the last axis in order, in float32."""
    if products.shape[-1] == 0:
        return np.zeros(products.shape[:-1])
    with np.errstate(invalid="ignore"):
        return np.add.accumulate(products, axis=-1, dtype=np.float32)[..., -1].astype(np.float64)


class SumsInFloat32(ReferenceBackend):
    """No mistake: the sum is taken in float32, where its order matters."""

    def parts(self, products: Array) -> list[Array]:
        """The products [M, N, K], cut along K into parts that are summed on their own."""
        return [products]

    def linear(self, x: Float64, weight: Float64, bias: Float64 | None) -> Float64:
        """See `ReferenceBackend.linear`."""
        with np.errstate(invalid="ignore"):
            products = FLOAT32.round(x[:, None, :] * weight).astype(np.float32)
        sums = np.stack([_summed(part) for part in self.parts(products)], axis=-1)
        total = _summed(sums)
        return total if bias is None else total + bias


@killed_by("linear_4bit/nf4/b64/float32/m17-n129-k257/bias/nested/threads")
class DependsOnThreads(SumsInFloat32):
    """Each thread sums its share of a row, so that the rounding depends on their number."""

    def parts(self, products: Array) -> list[Array]:
        import torch

        return np.array_split(products, torch.get_num_threads(), axis=-1)


@killed_by("linear_4bit/nf4/b64/float32/m17-n129-k257/bias/nested/repeat")
class DependsOnThePreviousCall(SumsInFloat32):
    """Every second call sums in the other direction, as sums without a fixed order may."""

    calls = 0

    def parts(self, products: Array) -> list[Array]:
        self.calls += 1
        return [products[..., :: 1 if self.calls % 2 else -1]]


@killed_by("linear_4bit/nf4/b64/float16/m16-n48-k64")
class ResultThroughBfloat16(ReferenceBackend):
    """A float16 result is rounded to bfloat16 before."""

    def linear_4bit(self, x: Any, packed: Any, scales: Any, bias: Any, out: Any, **o: Any) -> None:
        super().linear_4bit(x, packed, scales, bias, out, **o)
        if format_of(out) == "float16":
            self.store(out, BFLOAT16.round(self.load(out)))
