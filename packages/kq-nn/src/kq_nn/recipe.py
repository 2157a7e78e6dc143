"""How to quantize the layers of a model: one choice for every format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kq_functional.formats import QUANT_TYPES
from kq_nn.kept import Columns, check_columns
from kq_nn.linear4bit import Linear4bit
from kq_nn.linear8bit import Linear8bitLt
from kq_nn.quantized import QuantizedLinear

FORMATS = (*QUANT_TYPES, "int8")
"""Formats that layers can be quantized to."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    **{name: {"blocksize": 64, "compress_statistics": True} for name in QUANT_TYPES},
    "int8": {"threshold": 6.0, "kept_columns": None},
}


@dataclass(frozen=True)
class Recipe:
    """A format and its options. An option that the format does not have is None.

    Attributes:
        format: one of `FORMATS`.
        blocksize: of 4-bit formats: elements that share a scale.
        compress_statistics: of 4-bit formats: double quantization.
        threshold: of int8: magnitude from which inputs are outliers; 0: none is.
        kept_columns: of int8: by name of a layer, the columns of its weight for which what
            rounding takes is kept; None: of no layer.
    """

    format: str
    blocksize: int | None = None
    compress_statistics: bool | None = None
    threshold: float | None = None
    kept_columns: Mapping[str, Columns] | None = None

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
        if "kept_columns" in given:
            given["kept_columns"] = _checked(given["kept_columns"])
        recipe = cls(format, **{**_DEFAULTS[format], **given})
        recipe.empty(0, 0)  # refuses what is out of range now, before anything is changed
        return recipe

    def empty(self, in_features: int, out_features: int) -> QuantizedLinear:
        """A layer without a bias, on the meta device."""
        shape = (in_features, out_features)
        if self.format == "int8":
            return Linear8bitLt(*shape, bias=False, device="meta", **self._options)
        return Linear4bit(*shape, bias=False, device="meta", **self._options)

    def quantize(self, linear: nn.Linear, name: str = "") -> QuantizedLinear:
        """The quantization of a dense layer, as `from_linear` of the layer's class makes it.

        Args:
            linear: the layer.
            name: of the layer, for what the recipe says about single layers.
        """
        if self.format == "int8":
            columns = (self.kept_columns or {}).get(name)
            return Linear8bitLt.from_linear(linear, kept_columns=columns, **self._options)
        return Linear4bit.from_linear(linear, **self._options)

    @property
    def _options(self) -> dict[str, Any]:
        """Keyword arguments of the layer's constructor."""
        if self.format == "int8":
            return {"threshold": self.threshold}
        options = {name: getattr(self, name) for name in _DEFAULTS[self.format]}
        return {"quant_type": self.format, **options}


def _checked(kept_columns: object) -> dict[str, list[int]]:
    """Columns by name of a layer, as JSON can hold them."""
    if not isinstance(kept_columns, Mapping):
        raise TypeError(f"kept_columns must map names of layers to columns, got {kept_columns!r}")
    checked = {}
    for name, columns in kept_columns.items():
        if not isinstance(name, str):
            raise TypeError(f"kept_columns must have names of layers as keys, got {name!r}")
        try:
            checked[name] = list(check_columns(columns))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
    return checked
