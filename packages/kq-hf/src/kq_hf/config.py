"""The `quantization_config` of a kq model."""

import warnings
from typing import Any, Self

from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

from kq_nn import Linear4bit
from kq_nn.patterns import check_patterns

QUANT_METHOD = "kq"


@register_quantization_config(QUANT_METHOD)
class KqConfig(QuantizationConfigMixin):
    """How a model is, or is to be, quantized.

    Pass it to `from_pretrained(..., quantization_config=KqConfig(...))`; it is stored in the
    model's config.json, so that a saved model needs no argument to be loaded again.

    Args:
        quant_type: "nf4" or "fp4".
        blocksize: Elements of a row that share one scale: a power of two from 32 to 4096.
        double_quant: Whether the scales are quantized too, to 8 bits.
        modules_to_not_convert: Patterns of modules to leave alone besides those that always are
            (tied weights, the output embedding, the last module): each is a regular expression
            that matches from the start of a module's name up to a dot or the end, or a plain
            suffix. A pattern that matches nothing is warned about. After loading, the config of
            the model holds the complete list.
        quant_method: Always "kq"; accepted because transformers passes it back.

    Raises:
        ValueError: For an unknown quant_type, blocksize or quant_method.
        TypeError: For an argument of the wrong type.
    """

    def __init__(
        self,
        quant_type: str = "nf4",
        blocksize: int = 64,
        double_quant: bool = True,
        modules_to_not_convert: list[str] | None = None,
        quant_method: str = QUANT_METHOD,
    ) -> None:
        if quant_method != QUANT_METHOD:
            raise ValueError(f"quant_method must be {QUANT_METHOD!r}, got {quant_method!r}")
        if not isinstance(double_quant, bool):
            raise TypeError(f"double_quant must be a bool, got {double_quant!r}")
        if modules_to_not_convert is not None:
            try:
                check_patterns(modules_to_not_convert)
            except (TypeError, ValueError) as error:
                raise type(error)(f"modules_to_not_convert: {error}") from None
        self.quant_method = QUANT_METHOD  # type: ignore[assignment]  # not one of transformers' own
        self.quant_type = quant_type
        self.blocksize = blocksize
        self.double_quant = double_quant
        self.modules_to_not_convert = (
            None if modules_to_not_convert is None else list(modules_to_not_convert)
        )
        self.empty_layer(0, 0)  # refuses a bad quant_type or blocksize now, not at loading

    def empty_layer(self, in_features: int, out_features: int) -> Linear4bit:
        """A layer of this format without a bias, on the meta device."""
        return Linear4bit(
            in_features,
            out_features,
            bias=False,
            quant_type=self.quant_type,
            blocksize=self.blocksize,
            compress_statistics=self.double_quant,
            device="meta",
        )

    @classmethod
    def from_dict(
        cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Makes a config from the JSON of a checkpoint.

        A key that this version does not know is ignored with a warning; the layers themselves
        check the format that their tensors declare.
        """
        known = ("quant_type", "blocksize", "double_quant", "modules_to_not_convert")
        unknown = sorted(set(config_dict) - {*known, "quant_method"})
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
