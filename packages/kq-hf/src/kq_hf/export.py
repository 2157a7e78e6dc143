"""Writing kq models in the formats of others."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BitsAndBytesConfig

from kq_hf.bitsandbytes_int8 import FORMAT, SCALES
from kq_hf.checkpoint import copy_companions
from kq_hf.config import QUANT_METHOD
from kq_hf.files import new_folder
from kq_hf.inspection import inspect_checkpoint, weight_files

_INDEX = "model.safetensors.index.json"


def export_bitsandbytes(source: Path, destination: Path) -> None:
    """Writes an int8 model of kq as a checkpoint that bitsandbytes loads.

    Codes and scales are the same numbers there, so that nothing is lost; neither library computes
    anything here. One file is in memory at a time. Everything that goes with the model is copied.

    Args:
        source: A model folder, quantized with the format "int8".
        destination: The folder to make.

    Raises:
        FileExistsError: If the destination exists.
        ValueError: If the source is not an int8 model of kq, has kept columns, or is damaged.
    """
    config = json.loads((source / "config.json").read_text("utf-8"))
    stored = config.get("quantization_config", {})
    if stored.get("quant_method") != QUANT_METHOD or stored.get("format") != "int8":
        raise ValueError(f"{source} is not an int8 model of kq, so bitsandbytes cannot hold it")
    if stored.get("kept_columns"):
        raise ValueError(
            f"{source} keeps columns of its weights in 16 bits, which bitsandbytes has no place "
            "for: quantize it without"
        )
    inspect_checkpoint(source)  # refuses what does not fit together
    files = weight_files(source)
    with new_folder(destination) as folder:
        renamed: dict[str, str] = {}
        layers = _quantized_layers(files)
        for file in files:
            tensors: dict[str, Tensor] = {}
            for name, tensor in load_file(file).items():
                new_name, value = _exchange(name, tensor, layers)
                tensors[new_name], renamed[name] = value, new_name
            save_file(tensors, folder / file.name, metadata={"format": "pt"})
        config["quantization_config"] = _bitsandbytes_config(stored)
        _write_json(folder / "config.json", config)
        if (source / _INDEX).is_file():
            index = json.loads((source / _INDEX).read_text("utf-8"))
            index["weight_map"] = {renamed[k]: file for k, file in index["weight_map"].items()}
            _write_json(folder / _INDEX, index)
        copy_companions(source, folder)


def _quantized_layers(files: list[Path]) -> set[str]:
    """Names of the layers with a format, in whichever file each of their tensors is."""
    names: set[str] = set()
    for file in files:
        with safe_open(file, "pt") as stream:
            names.update(name for name in stream.keys() if name.endswith(f".{FORMAT}"))  # noqa: SIM118
    return {name.removesuffix(f".{FORMAT}") for name in names}


def _exchange(name: str, tensor: Tensor, layers: set[str]) -> tuple[str, Tensor]:
    """A stored tensor of kq under the name and in the shape that bitsandbytes gives it."""
    layer, _, part = name.rpartition(".")
    if layer in layers:
        if part == "weight":
            return name, tensor.squeeze(-1)
        if part == "weight_absmax":
            return f"{layer}.{SCALES}", tensor.view(torch.float32)
        if part == FORMAT:
            return name, torch.zeros((), dtype=torch.uint8)  # 0: row-major
    return name, tensor


def _bitsandbytes_config(stored: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = BitsAndBytesConfig(
        load_in_8bit=True,
        llm_int8_threshold=stored["threshold"],
        llm_int8_skip_modules=stored["modules_to_not_convert"],
    ).to_dict()
    return config


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
