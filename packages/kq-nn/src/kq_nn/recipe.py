"""How to quantize the layers of a model: one choice for every format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from kq_functional.formats import QUANT_TYPES
from kq_nn.linear4bit import Linear4bit
from kq_nn.linear8bit import Linear8bitLt
from kq_nn.quantized import QuantizedLinear

FORMATS = (*QUANT_TYPES, "int8")
"""Formats that layers can be quantized to."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    **{name: {"blocksize": 64, "compress_statistics": True} for name in QUANT_TYPES},
    "int8": {"threshold": 6.0},
}


@dataclass(frozen=True)
class Recipe:
    """A format and its options. An option that the format does not have is None.

    Attributes:
        format: one of `FORMATS`.
        blocksize: of 4-bit formats: elements that share a scale.
        compress_statistics: of 4-bit formats: double quantization.
        threshold: of int8: magnitude from which inputs are outliers; 0: none is.
    """

    format: str
    blocksize: int | None = None
    compress_statistics: bool | None = None
    threshold: float | None = None

    @classmethod
    def of(cls, format: str, **options: Any) -> Recipe:  # noqa: A002 - the field's own name
        """Completes a choice with the defaults of its format.

        Args:
            format: one of `FORMATS`.
            **options: the other attributes; None stands for the default.

        Raises:
            ValueError: for an unknown format, an option that it does not have, or one that is
                out of range.
            TypeError: for an option of the wrong type.
        """
        if format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
        given = {name: value for name, value in options.items() if value is not None}
        for name in given:
            if name not in _DEFAULTS[format]:
                raise ValueError(f"{name} is no option of the format {format}")
        recipe = cls(format, **{**_DEFAULTS[format], **given})
        recipe.empty(0, 0)  # refuses what is out of range now, before anything is changed
        return recipe

    def empty(self, in_features: int, out_features: int) -> QuantizedLinear:
        """A layer without a bias, on the meta device."""
        shape = (in_features, out_features)
        if self.format == "int8":
            return Linear8bitLt(*shape, bias=False, device="meta", **self._options)
        return Linear4bit(*shape, bias=False, device="meta", **self._options)

    def quantize(self, linear: nn.Linear) -> QuantizedLinear:
        """The quantization of a dense layer, as `from_linear` of the layer's class makes it."""
        if self.format == "int8":
            return Linear8bitLt.from_linear(linear, **self._options)
        return Linear4bit.from_linear(linear, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        """Keyword arguments of the layer's constructor."""
        options = {name: getattr(self, name) for name in _DEFAULTS[self.format]}
        return options if self.format == "int8" else {"quant_type": self.format, **options}
