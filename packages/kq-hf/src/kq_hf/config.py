"""The `quantization_config` of a kq model."""

import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, Self

from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

from kq_nn import Recipe
from kq_nn.patterns import check_patterns

QUANT_METHOD = "kq"
STORED_AS = ("kq", "bitsandbytes")


@register_quantization_config(QUANT_METHOD)
class KqConfig(QuantizationConfigMixin):
    """How a model is, or is to be, quantized.

    Pass it to `from_pretrained(..., quantization_config=KqConfig(...))`; it is stored in the
    model's config.json, so that a saved model needs no argument to be loaded again.

    Args:
        format: "nf4", "fp4" or "int8".
        blocksize: Of nf4 and fp4: elements of a row that share one scale, a power of two from 32
            to 4096; by default 64.
        double_quant: Of nf4 and fp4: whether the scales are quantized too, to 8 bits; by default
            yes.
        modules_to_not_convert: Patterns of modules to leave alone besides those that always are
            (tied weights, the output embedding, the last module): each is a regular expression
            that matches from the start of a module's name up to a dot or the end, or a plain
            suffix. A pattern that matches nothing is warned about. After loading, the config of
            the model holds the complete list.
        threshold: Of int8: magnitude from which elements of a layer's input are outliers, which
            are multiplied unquantized; 0: none is. By default 6.0.
        kept_columns: Of int8: by name of a linear layer, the columns of its weight for which what
            rounding takes is kept in 16 bits (see `kq_nn.Linear8bitLt`): input features that
            are known to hold outliers. Those of layers that are not converted do not matter;
            the config of a loaded model has them no more. By default of no layer.
        stored_as: "bitsandbytes" for an int8 checkpoint of that library (see
            `kq_hf.adopt_config`); its model is a kq model like any other once
            it is loaded.
        quant_method: Always "kq"; accepted because transformers passes it back.

    Raises:
        ValueError: For an unknown format, blocksize or quant_method, or an option that the format
            does not have.
        TypeError: For an argument of the wrong type.
    """

    def __init__(
        self,
        format: str = "nf4",  # noqa: A002 - the field's own name
        blocksize: int | None = None,
        double_quant: bool | None = None,
        modules_to_not_convert: list[str] | None = None,
        threshold: float | None = None,
        kept_columns: Mapping[str, Sequence[int]] | None = None,
        stored_as: str = "kq",
        quant_method: str = QUANT_METHOD,
    ) -> None:
        if quant_method != QUANT_METHOD:
            raise ValueError(f"quant_method must be {QUANT_METHOD!r}, got {quant_method!r}")
        if stored_as not in STORED_AS or (stored_as != "kq" and format != "int8"):
            raise ValueError(f"stored_as of the format {format} cannot be {stored_as!r}")
        if double_quant is not None and not isinstance(double_quant, bool):
            raise TypeError(f"double_quant must be a bool, got {double_quant!r}")
        if modules_to_not_convert is not None:
            try:
                check_patterns(modules_to_not_convert)
            except (TypeError, ValueError) as error:
                raise type(error)(f"modules_to_not_convert: {error}") from None
        if stored_as != "kq" and kept_columns:
            raise ValueError(f"kept_columns cannot be stored as {stored_as!r}")
        recipe = Recipe.of(
            format,
            blocksize=blocksize,
            compress_statistics=double_quant,
            threshold=threshold,
            kept_columns=kept_columns,
        )
        self.quant_method = QUANT_METHOD  # type: ignore[assignment]  # not one of transformers' own
        self.format = recipe.format
        self.blocksize = recipe.blocksize
        self.double_quant = recipe.compress_statistics
        self.threshold = recipe.threshold
        self.kept_columns = recipe.kept_columns
        self.modules_to_not_convert = (
            None if modules_to_not_convert is None else list(modules_to_not_convert)
        )
        self.stored_as = stored_as

    @property
    def recipe(self) -> Recipe:
        """The format and its options, as kq_nn takes them."""
        return Recipe(
            self.format, self.blocksize, self.double_quant, self.threshold, self.kept_columns
        )

    def to_dict(self) -> dict[str, Any]:
        """What is stored: without the options that the format does not have."""
        stored: dict[str, Any] = super().to_dict()
        options = ("blocksize", "double_quant", "threshold", "kept_columns")
        return {
            key: value for key, value in stored.items() if value is not None or key not in options
        }

    @classmethod
    def from_dict(
        cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Makes a config from the JSON of a checkpoint.

        A key that this version does not know is ignored with a warning; the layers themselves
        check the format that their tensors declare.
        """
        unknown = sorted(set(config_dict) - set(signature(cls).parameters))
        if unknown:
            warnings.warn(f"this version of kq-hf ignores {unknown} of a kq config", stacklevel=2)
        arguments = {key: value for key, value in config_dict.items() if key not in unknown}
        result: Self | tuple[Self, dict[str, Any]] = super().from_dict(  # type: ignore[no-untyped-call]
            arguments, return_unused_kwargs, **kwargs
        )
        return result

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, as a dict has it.

        transformers asks in this way when the config of a loaded model is used to load another.
        """
        return getattr(self, key, default)
