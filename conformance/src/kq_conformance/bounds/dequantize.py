"""What decoding may give: one rounded product, one cast, and the scales below them."""

import numpy as np

from kq_conformance.bounds.acceptance import Interval, Rule
from kq_conformance.bounds.codes import Strictness
from kq_conformance.bounds.enclosure import Enclosure
from kq_conformance.floats import FLOAT32, FORMATS, Array, Float64
from kq_conformance.reference import NESTED_BLOCKSIZE, decode_scales

__all__ = ["accept_decoded", "exact_scales", "scale_enclosure"]

_SOURCE = "conformance/README.md, 'Bounds'; docs/FORMAT.md"

DECODED_EXACT = Rule(
    "decode, exact",
    "round_dtype(round_float32(code · absmax)), bit for bit",
    _SOURCE,
    exact=True,
)
DECODED_MARGIN = Rule(
    "decode, margin",
    "round_dtype(code · absmax), or the same through float32; a nested scale within one rounding"
    " of its product and one of its sum",
    _SOURCE,
)


def exact_scales(absmax: Float64) -> Enclosure:
    """Scales that are stored in float32 and need no decoding."""
    return Enclosure(absmax, absmax)


def scale_enclosure(
    codes: Array,
    nested_absmax: Float64,
    nested_code: Float64,
    offset: float,
    strictness: Strictness,
) -> Enclosure:
    """Double-quantized scales: nested_code[codes] · nested_absmax + offset.

    EXACT: the two float32 roundings of the format. MARGIN: each of the two steps may round in
    either direction or, in a fused multiply-add, not at all: the interval of the composition.
    """
    if strictness is Strictness.EXACT:
        return exact_scales(decode_scales(codes, nested_absmax, nested_code, offset))
    flat = codes.reshape(-1)
    group = np.repeat(nested_absmax, NESTED_BLOCKSIZE)[: flat.size]
    product = Enclosure.of(nested_code[flat]) * Enclosure.of(group)
    total = (product.rounded() + Enclosure.of(np.full(flat.shape, offset))).rounded()
    return Enclosure(total.low.reshape(codes.shape), total.high.reshape(codes.shape))


def accept_decoded(
    expected: Float64, values: Float64, scales: Enclosure, dtype: str, strictness: Strictness
) -> Interval:
    """The results that decoding may give.

    Args:
        expected: the reference's answer.
        values: float64 [R, C], codebook[code] of each element.
        scales: enclosure [R, C] of each element's absmax.
        dtype: type of the result.
        strictness: EXACT: `expected` alone. MARGIN: rounding is monotone, so that the rounded ends
            of the exact product enclose every way to get there; going through float32 first may
            land on the neighbor when the product lies within u of a tie, and is allowed too.
    """
    if strictness is Strictness.EXACT:
        rule = DECODED_EXACT
        return Interval("out", expected, expected, expected, rule, signed_zero=True)
    product = Enclosure.of(values) * scales
    to = FORMATS[dtype].round
    ends = [
        path(end)
        for end in (product.low, product.high)
        for path in (to, lambda x: to(FLOAT32.round(x)))
    ]
    with np.errstate(invalid="ignore"):
        low, high = np.minimum.reduce(ends), np.maximum.reduce(ends)
    return Interval("out", expected, low, high, DECODED_MARGIN)
