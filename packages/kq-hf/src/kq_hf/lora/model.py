"""LoRA on whole models: which layer class PEFT uses, and merging with a report."""

from dataclasses import dataclass

from peft import LoraConfig, PeftModel
from peft.tuners import lora
from torch import nn

from kq_hf.lora.layer import LoraLinear, MergeError
from kq_nn import QuantizedLinear, is_quantized


def register(config: LoraConfig) -> LoraConfig:
    """Makes PEFT use `LoraLinear` for quantized layers wherever this config is applied.

    PEFT does not save this; after `PeftModel.from_pretrained`, use `adopt`.

    Args:
        config: A LoRA configuration, changed in place.

    Returns:
        The same configuration.
    """
    config._register_custom_module({QuantizedLinear: LoraLinear})
    return config


def adopt(model: nn.Module) -> int:
    """Turns PEFT's own LoRA layers on quantized layers into `LoraLinear`, in place.

    Args:
        model: A model with adapters, for instance from `PeftModel.from_pretrained`.

    Returns:
        How many layers were changed. Those made with `register` need no change.

    Raises:
        ValueError: If adapters are merged already: PEFT has damaged the packed weight then.
    """
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is lora.Linear and is_quantized(module.get_base_layer())
    ]
    for name, layer in layers:
        if layer.merged:
            raise ValueError(f"{name} has merged adapters; call adopt before merging")
    for _, layer in layers:
        layer.__class__ = LoraLinear
    return len(layers)


@dataclass(frozen=True)
class MergeReport:
    """What merging the adapters of a model has cost.

    Attributes:
        layers: The error of each layer, by name.
    """

    layers: dict[str, MergeError]

    @property
    def worst_of_weight(self) -> float:
        """Largest `MergeError.of_weight`; 0 if nothing was merged."""
        return max((error.of_weight for error in self.layers.values()), default=0.0)

    @property
    def worst_of_change(self) -> float:
        """Largest `MergeError.of_change`; 0 if nothing was merged."""
        return max((error.of_change for error in self.layers.values()), default=0.0)

    def __str__(self) -> str:
        return (
            f"merged {len(self.layers)} quantized layers; quantizing them again changed a weight "
            f"by at most {self.worst_of_weight:.2%} of its norm, which is "
            f"{self.worst_of_change:.2%} of what the adapters add"
        )


def merge_and_unload(
    model: PeftModel, *, safe_merge: bool = False
) -> tuple[nn.Module, MergeReport]:
    """Merges the active adapters into the model and removes PEFT from it.

    The quantized layers stay quantized. An adapter is a small change next to the error of
    quantizing, so some of it is lost: the report tells how much. To keep all of it, keep the
    adapter.

    Args:
        model: A model with LoRA adapters; it is adopted first.
        safe_merge: Refuse to merge values that are not finite.

    Returns:
        The model without adapters, and the report.
    """
    adopt(model)
    base = model.get_base_model()
    layers = {name: m for name, m in base.named_modules() if isinstance(m, LoraLinear)}
    merged = model.merge_and_unload(safe_merge=safe_merge)
    errors = {name: layer.merge_error for name, layer in layers.items()}
    return merged, MergeReport({name: error for name, error in errors.items() if error})
