"""Quantization while a model loads, and loading of quantized models.

Only those hooks are used that every transformers 5.x has. The stored tensors of a layer are
ordinary parameters whose names are the keys of the checkpoint, so that a quantized checkpoint
loads and saves without any conversion of keys or values.
"""

import copy
import warnings
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer

from kq_hf import bitsandbytes_int8
from kq_hf.config import QUANT_METHOD, KqConfig
from kq_hf.names import own_name
from kq_nn import CoverageReport, Linear8bitLt, Recipe, is_quantized, quantize_model
from kq_nn.patterns import unmatched


@register_quantizer(QUANT_METHOD)
class KqQuantizer(HfQuantizer):
    """What transformers calls while it loads a model with a `KqConfig`.

    Attributes:
        quantization_config: The config of the model, with the complete list of modules that
            were not converted.
        report: What is quantized and what is not and why; None until a model was loaded.
    """

    quantization_config: KqConfig
    requires_calibration = False

    def __init__(self, quantization_config: KqConfig, **kwargs: Any) -> None:
        # A copy: one config of the user may serve for several models.
        super().__init__(copy.deepcopy(quantization_config), **kwargs)
        self.report: CoverageReport | None = None

    def validate_environment(self, *_: Any, device_map: Any = None, **__: Any) -> None:
        """Refuses to convert what is to stay on disk.

        Raises:
            ValueError: If modules of a dense or foreign checkpoint are to be offloaded to disk:
                the loader would read them from that checkpoint later.
        """
        places = device_map.values() if isinstance(device_map, dict) else ()
        ready = self.pre_quantized and self.quantization_config.stored_as == "kq"
        if "disk" in places and not ready:
            raise ValueError(
                "device_map offloads modules to disk, which is possible only for a model that kq "
                "has quantized and saved already: do so with `kq quantize` first"
            )

    def is_serializable(self) -> bool:
        """Quantized models can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters can be trained on quantized models."""
        return True

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, *, checkpoint_files: list[str] | None = None, **_: Any
    ) -> PreTrainedModel:
        config = self.quantization_config
        foreign = config.stored_as == "bitsandbytes"
        # A container does not count: nothing inside it matches because its name does.
        names = [name for name, module in model.named_modules() if module._parameters]
        patterns = config.modules_to_not_convert or []
        if foreign:
            # Theirs are in force only where there is no list of one's own.
            patterns = config.modules_to_not_convert = sorted(
                self.get_modules_to_not_convert(
                    model,
                    config.modules_to_not_convert,
                    getattr(model, "_keep_in_fp32_modules", None),
                )
            )
        elif not self.pre_quantized:
            for pattern in unmatched(patterns, names):
                warnings.warn(
                    f"modules_to_not_convert: {pattern!r} matches no module of "
                    f"{type(model).__name__}; its modules have names such as {names[-1]!r}",
                    stacklevel=2,
                )
            always = self.get_modules_to_not_convert(
                model, None, getattr(model, "_keep_in_fp32_modules", None)
            )
            # Recorded, because the list depends on the class of the model: what is saved from a
            # model with a head may be loaded into one without.
            patterns = config.modules_to_not_convert = sorted({*patterns, *always})
        absent = set(unmatched(patterns, names))
        self._take_names_of(model)
        self.report = quantize_model(
            model,
            **asdict(config.recipe),
            skip=[pattern for pattern in patterns if pattern not in absent],
        )
        config.kept_columns = {
            name: columns
            for name, columns in (config.kept_columns or {}).items()
            if is_quantized(model.get_submodule(name))
        } or None
        if foreign:
            layers = {n: m for n, m in model.named_modules() if isinstance(m, Linear8bitLt)}
            bitsandbytes_int8.expect(model, layers, checkpoint_files or [])
        for module in model.modules():
            if is_quantized(module):
                # transformers would fill parameters that it did not load itself (those
                # offloaded to disk) with random numbers.
                module._is_hf_initialized = True  # type: ignore[assignment]
                if not self.pre_quantized:
                    # A floating-point stand-in, because transformers before 5.23 casts the
                    # checkpoint's tensor to the dtype it finds here, before it is quantized.
                    shape = (module.out_features, module.in_features)
                    stand_in = torch.empty(shape, device="meta")
                    module.weight = nn.Parameter(stand_in, requires_grad=False)
        return model

    def _take_names_of(self, model: PreTrainedModel) -> None:
        """Gives kept columns to the layers of this model, which may be without its head.

        Of a stored model without what is not there; of another, that is for the user to know.
        """
        config = self.quantization_config
        present = dict(model.named_modules()).keys()
        named = {
            own_name(model.base_model_prefix, name, present): columns
            for name, columns in (config.kept_columns or {}).items()
        }
        config.kept_columns = {
            name: columns
            for name, columns in named.items()
            if name in present or not self.pre_quantized
        } or None

    def param_needs_quantization(
        self,
        model: PreTrainedModel,
        param_name: str,
        **_: Any,
    ) -> bool:
        """Whether a tensor of the checkpoint is the dense weight of a layer to quantize."""
        module_name, _separator, name = param_name.rpartition(".")
        return (
            not self.pre_quantized
            and name == "weight"
            and is_quantized(model.get_submodule(module_name))
        )

    def get_quantize_ops(self) -> ConversionOps:
        """The operation that transformers applies to each tensor that needs quantization."""
        return _Quantize(self.quantization_config.recipe)

    def _process_model_after_weight_loading(
        self, model: PreTrainedModel, **_: Any
    ) -> PreTrainedModel:
        for name, module in model.named_modules():
            if is_quantized(module):
                try:
                    if self.quantization_config.stored_as == "bitsandbytes":
                        bitsandbytes_int8.take_over(cast(Linear8bitLt, module))
                    module.check_state()
                except RuntimeError as error:
                    raise RuntimeError(f"the checkpoint does not fit {name}: {error}") from None
        self.quantization_config.stored_as = "kq"
        self.report = coverage(model, self.report)
        return model

    def _dequantize(
        self, model: PreTrainedModel, dtype: torch.dtype | None = None
    ) -> PreTrainedModel:
        for name, module in list(model.named_modules()):
            if is_quantized(module):
                dense = nn.Linear(module.in_features, module.out_features, False, device="meta")
                dense.weight = nn.Parameter(module.dequantize().to(dtype or torch.float32))
                dense.weight.requires_grad_(False)
                dense.bias = module.bias
                dense.train(module.training)
                model.set_submodule(name, dense)
        return model


class _Quantize(ConversionOps):
    """Turns the dense weight of one layer into the layer's stored tensors."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],  # noqa: ARG002 - the loader names all of them
        target_patterns: list[str],  # noqa: ARG002
        **_: Any,
    ) -> dict[str, Any]:
        """Maps {name: dense weight, or a list of it alone} to {name: stored tensor}."""
        stored = {}
        for key, value in input_dict.items():
            weight = value[0] if isinstance(value, list) else value
            dense = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
            dense.weight = nn.Parameter(weight, requires_grad=False)
            module = key.removesuffix(".weight")
            for name, parameter in self._recipe.quantize(dense, module).named_parameters():
                stored[f"{module}.{name}"] = parameter
        return stored


def coverage(model: nn.Module, before: CoverageReport | None = None) -> CoverageReport:
    """What share of a model is quantized, and what is not and why; `print` it.

    Args:
        model: A model, loaded or quantized by kq.
        before: An earlier report that knows why modules were left alone; by default that of the
            model's quantizer, if it has one.

    Returns:
        The report. The size before quantization is counted in the model's own dtype.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if before is None and isinstance(quantizer, KqQuantizer):
        before = quantizer.report
    reasons = {record.name: record.reason for record in before.skipped} if before else {}
    dtype = getattr(model, "dtype", torch.float32)
    return CoverageReport.of(model, reasons=reasons, dense_dtype=dtype)
