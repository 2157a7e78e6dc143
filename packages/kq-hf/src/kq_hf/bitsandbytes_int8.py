"""int8 checkpoints of bitsandbytes as kq layers.

Both store the same numbers: codes from -127 to 127, and the largest magnitude of each row. Only
names and shapes differ. A layer there is `weight` int8 [out, in], `SCB` float32 [out] and
`weight_format`, one uint8 that is 0 for this order of the codes; old checkpoints lack the last.
So nothing is rounded in either direction (`kq_hf.export` is the other one).

While such a checkpoint loads, its layers have their parameters under those names.
"""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from kq_hf.config import KqConfig
from kq_hf.names import own_name
from kq_nn import Linear8bitLt

SCALES = "SCB"
FORMAT = "weight_format"
_ROW_MAJOR = 0


def adopt_config(config: PretrainedConfig) -> PretrainedConfig:
    """Makes transformers load an int8 model of bitsandbytes with kq.

    Pass the result to `from_pretrained(folder, config=...)`. bitsandbytes is not needed.

    Args:
        config: Of any model, for instance from `AutoConfig.from_pretrained`. It is not changed.

    Returns:
        A copy with a `KqConfig` in the place of bitsandbytes' quantization config; the same
        object if there is none.

    Raises:
        ValueError: If the model is stored by bitsandbytes, but not in int8.
    """
    stored = getattr(config, "quantization_config", None)
    stored = stored if isinstance(stored, Mapping) or stored is None else stored.to_dict()
    if stored is None or not _is_bitsandbytes(stored):
        return config
    if not stored.get("load_in_8bit") or stored.get("llm_int8_has_fp16_weight"):
        raise ValueError("of the checkpoints of bitsandbytes, kq reads those in int8 only")
    adopted = copy.deepcopy(config)
    adopted.quantization_config = KqConfig(
        "int8",
        threshold=float(stored.get("llm_int8_threshold", 6.0)),
        modules_to_not_convert=stored.get("llm_int8_skip_modules"),
        stored_as="bitsandbytes",
    ).to_dict()
    return adopted


def _is_bitsandbytes(stored: Mapping[str, Any]) -> bool:
    method = stored.get("quant_method")
    # Old ones do not name a method.
    return method == "bitsandbytes" or bool(
        stored.get("load_in_8bit") or stored.get("load_in_4bit")
    )


def expect(
    model: PreTrainedModel, layers: Mapping[str, Linear8bitLt], files: Iterable[str]
) -> None:
    """Gives empty int8 layers the parameters that the checkpoint has for them.

    Args:
        model: On the meta device.
        layers: Its int8 layers by name.
        files: The checkpoint.

    Raises:
        ValueError: If it has int8 layers that the model has not, or the other way round: codes
            would be taken for floats, or floats be missing.
    """
    names = _tensor_names(files)
    present = dict(model.named_modules())
    stored, formats = (
        {
            own_name(model.base_model_prefix, name.removesuffix(ending), present)
            for name in names
            if name.endswith(ending)
        }
        for ending in (f".{SCALES}", f".{FORMAT}")
    )
    for name in sorted((stored & present.keys()) ^ layers.keys()):
        where = "the checkpoint" if name in stored else "the model"
        raise ValueError(f"{name} is in int8 in {where} alone: check llm_int8_skip_modules")
    for name, layer in layers.items():
        shape = (layer.out_features, layer.in_features)
        del layer.weight_absmax, layer.weight_format
        _set_empty(layer, "weight", shape, torch.int8)
        _set_empty(layer, SCALES, shape[:1], torch.float32)
        if name in formats:
            _set_empty(layer, FORMAT, (), torch.uint8)


def take_over(layer: Linear8bitLt) -> None:
    """Turns a layer that has loaded such parameters into a kq layer, copying nothing.

    Raises:
        RuntimeError: If the codes are in another order.
    """
    order = getattr(layer, FORMAT, None)
    if order is not None and int(order) != _ROW_MAJOR:
        raise RuntimeError(f"{FORMAT} is {int(order)}; only row-major codes (0) can be read")
    parts = Linear8bitLt.from_parts(layer.weight, getattr(layer, SCALES))
    delattr(layer, SCALES)
    for name, parameter in parts.named_parameters():
        setattr(layer, name, parameter)


def _tensor_names(files: Iterable[str]) -> set[str]:
    names: set[str] = set()
    for file in files:
        if Path(file).suffix != ".safetensors":
            raise ValueError(f"checkpoints of bitsandbytes are read from safetensors, not {file}")
        with safe_open(file, "pt") as stream:
            names.update(stream.keys())
    return names


def _set_empty(layer: nn.Module, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.empty(shape, dtype=dtype, device="meta")
    setattr(layer, name, nn.Parameter(tensor, requires_grad=False))
