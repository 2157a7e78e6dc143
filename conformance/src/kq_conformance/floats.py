"""The three floating-point formats of the suite, and rounding into them, on NumPy alone.

NumPy has no bfloat16, so values travel as bit patterns (`Stored`) and are computed with as float64,
which holds every float32, bfloat16 and float16 value exactly.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Float64 = NDArray[np.float64]

__all__ = [
    "BFLOAT16",
    "FLOAT16",
    "FLOAT32",
    "FORMATS",
    "Array",
    "Float64",
    "FloatFormat",
    "Stored",
    "bits_dtype",
    "store",
    "stored_bytes",
    "stored_corrections",
    "stored_integers",
    "values_of",
]

_EXPONENT = np.uint64(0x7FF << 52)  # its bits in a float64, of which they alone are a power of two


@dataclass(frozen=True)
class FloatFormat:
    """An IEEE 754 style binary format with subnormals, infinities and NaN.

    Attributes:
        name: the name that torch and the case ids use.
        precision: significant bits, the hidden one included.
        emin: exponent of the smallest normal number, 2**emin.
        emax: exponent of the largest finite numbers.
    """

    name: str
    precision: int
    emin: int
    emax: int

    @property
    def unit_roundoff(self) -> float:
        """2**-precision, "u": the relative error of one round-to-nearest in the normal range."""
        return 2.0**-self.precision

    @property
    def tiny(self) -> float:
        """The smallest positive (subnormal) number; half of it bounds the underflow error."""
        return 2.0 ** (self.emin - self.precision + 1)

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return 2.0**self.emax * (2 - 2.0 ** (1 - self.precision))

    @property
    def bits_dtype(self) -> np.dtype[Any]:
        """The unsigned integer type that holds one bit pattern."""
        return np.dtype(np.uint32 if self.name == "float32" else np.uint16)

    def round(self, x: Array | float) -> Float64:
        """Round float64 values to this format, to nearest, ties to even (IEEE 754-2019, 4.3.1).

        The spacing of the format around x is a power of two, so the quotient and the product below
        are exact and `rint` does the one rounding. Signed zeros, infinities and NaN pass through;
        a result beyond the largest finite number becomes an infinity.
        """
        x = np.asarray(x, dtype=np.float64)
        binade = (x.view(np.uint64) & _EXPONENT).view(np.float64)  # an infinity if x is not finite
        spacing = np.clip(binade, 2.0**self.emin, 2.0**self.emax) * 2.0 ** (1 - self.precision)
        with np.errstate(invalid="ignore"):  # a signaling NaN is not an error here
            rounded = np.rint(x / spacing) * spacing
        return np.where(np.abs(rounded) > self.largest, np.copysign(np.inf, rounded), rounded)

    def encode(self, x: Array) -> Array:
        """Bit patterns of float64 values that this format holds exactly; NaN becomes the quiet NaN.

        Raises:
            ValueError: if a value is not representable (round it first).
        """
        x = np.where(np.isnan(x), np.nan, np.asarray(x, dtype=np.float64))
        with np.errstate(over="ignore"):  # seen below
            narrow = x.astype(np.float16 if self.name == "float16" else np.float32)
        bits: Array = narrow.view(np.uint16 if self.name == "float16" else np.uint32)
        if self.name == "bfloat16":
            bits = (bits >> 16).astype(np.uint16)
        if not np.array_equal(self.decode(bits), x, equal_nan=True):
            raise ValueError(f"x holds values that {self.name} cannot represent")
        return bits

    def decode(self, bits: Array) -> Float64:
        """The float64 values of bit patterns."""
        bits = np.asarray(bits, dtype=self.bits_dtype)
        if self.name == "float16":
            return bits.view(np.float16).astype(np.float64)
        if self.name == "bfloat16":
            bits = bits.astype(np.uint32) << 16
        with np.errstate(invalid="ignore"):  # widening a signaling NaN is not an error here
            return bits.view(np.float32).astype(np.float64)

    def preimage(self, x: Array) -> tuple[Float64, Float64]:
        """Ends of the interval of numbers that round to each finite value of this format."""
        return (x + self.step(x, -1)) / 2, (x + self.step(x, +1)) / 2

    def step(self, x: Array, direction: int) -> Float64:
        """The neighbor of each finite value: the next number up (`direction` +1) or down (-1)."""
        magnitude = self.encode(np.abs(x)).astype(np.int64)
        negative = np.signbit(x)
        # Bit patterns of a sign-magnitude format order like integers once the sign is applied.
        ordered = np.where(negative, -magnitude, magnitude) + direction
        sign = 1 << (self.bits_dtype.itemsize * 8 - 1)
        return self.decode(np.where(ordered < 0, sign - ordered, ordered))


FLOAT32 = FloatFormat("float32", 24, -126, 127)
BFLOAT16 = FloatFormat("bfloat16", 8, -126, 127)
FLOAT16 = FloatFormat("float16", 11, -14, 15)
FORMATS = {each.name: each for each in (FLOAT32, BFLOAT16, FLOAT16)}
_INTEGERS: dict[str, np.dtype[Any]] = {
    "uint8": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "int32": np.dtype(np.int32),
    "bool": np.dtype(np.uint8),  # a byte that is neither 0 nor 1 shows
}


class Stored(NamedTuple):
    """An array as it lies in memory: unsigned integer bit patterns and the name of their type.

    `dtype` is a key of `FORMATS`, "uint8", "int8", "int32" or "bool"; integers are in two's
    complement.
    """

    bits: Array
    dtype: str


def bits_dtype(dtype: str) -> np.dtype[Any]:
    """The unsigned integer type that holds one bit pattern of a `Stored` type."""
    if dtype in FORMATS:
        return FORMATS[dtype].bits_dtype
    return np.dtype(f"u{_INTEGERS[dtype].itemsize}")


def store(values: Array, dtype: str) -> Stored:
    """Round float64 values to `dtype` and keep their bit patterns."""
    chosen = FORMATS[dtype]
    return Stored(chosen.encode(chosen.round(values)), dtype)


def stored_bytes(codes: Array) -> Stored:
    """Wrap packed codes."""
    return Stored(np.asarray(codes, dtype=np.uint8), "uint8")


def stored_corrections(correction: Array) -> Stored:
    """Wrap the corrections of master weights: int8 in two's complement, as bytes."""
    return Stored(np.asarray(correction, dtype=np.uint8), "int8")


def stored_integers(values: Array, dtype: str) -> Stored:
    """Wrap integers, or truth values for "bool", that `dtype` holds."""
    whole = np.ascontiguousarray(values, dtype=_INTEGERS[dtype])
    return Stored(whole.view(bits_dtype(dtype)), dtype)


def values_of(stored: Stored) -> Float64:
    """The float64 values of a stored array."""
    if stored.dtype in _INTEGERS:
        values: Float64 = stored.bits.view(_INTEGERS[stored.dtype]).astype(np.float64)
        return values
    return FORMATS[stored.dtype].decode(stored.bits)
