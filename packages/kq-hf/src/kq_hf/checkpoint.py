"""Model folders: finding, loading and quantizing them."""

import re
import shutil
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kq_hf.bitsandbytes_int8 import adopt_config
from kq_hf.config import KqConfig
from kq_hf.files import new_folder
from kq_hf.quantizer import coverage
from kq_nn import CoverageReport

_WEIGHTS = re.compile(r".*\.(safetensors|bin|gguf|h5|msgpack|onnx|ot|pt|pth)(\.index\.json)?")


def model_folder(name: str) -> Path:
    """The folder of a model.

    Args:
        name: A folder, or the name of a model on the Hugging Face Hub (owner/model), which is
            fetched into the cache of huggingface_hub.

    Raises:
        ValueError: If it is neither, or the folder has no config.json.
    """
    folder = Path(name)
    if not folder.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name))
        except Exception as error:  # a network has many ways to fail
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{name} is not a folder, and not on the Hub: {reason}") from error
    if not folder.exists():
        raise ValueError(f"{name} does not exist")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{name} is not a model folder: it has no config.json")
    return folder


def load_model(folder: Path, **options: Any) -> PreTrainedModel:
    """Loads a model as the class that its config names, with every weight from the files.

    int8 checkpoints of bitsandbytes become kq models.

    Args:
        folder: A model folder.
        **options: Arguments of `from_pretrained`, such as dtype and quantization_config.

    Raises:
        ValueError: If the class is unknown, the files are damaged, or weights are missing.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
        names = config.architectures or ["AutoModelForCausalLM"]
        model_class = getattr(transformers, names[0], None)
        if model_class is None:
            raise ValueError(f"transformers has no model class {names[0]}")
        adopted = adopt_config(config)
        if adopted is not config:
            options["config"] = adopted
        model, info = model_class.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:  # every layer below has exceptions of its own for a bad file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot load {folder}: {reason}") from error
    if missing := sorted(info["missing_keys"]):
        # transformers fills these with random numbers and only warns.
        raise ValueError(f"{folder} lacks {len(missing)} weights, for instance {missing[0]}")
    loaded: PreTrainedModel = model
    return loaded


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model.

    Raises:
        ValueError: If the folder has none.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # OSError, ValueError, TypeError, KeyError, by tokenizer
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot load the tokenizer of {folder}: {reason}") from error
    # Without files, transformers makes an empty tokenizer of the class that the model implies.
    if not any((folder / name).is_file() for name in tokenizer.vocab_files_names.values()):
        raise ValueError(f"{folder} has no tokenizer")
    return tokenizer


def quantize_checkpoint(
    source: Path, destination: Path, config: KqConfig, dtype: str = "auto"
) -> CoverageReport:
    """Quantizes a model folder into a new one, which `from_pretrained` loads without arguments.

    Beside the weights, everything that goes with the model (tokenizer, chat template, notes) is
    copied; hidden files are not. The destination appears when it is complete.

    Args:
        source: A model folder with dense weights.
        destination: The folder to make.
        config: How to quantize.
        dtype: "float32", "bfloat16" or "float16" for what stays dense; "auto" leaves it as it is.

    Returns:
        What was quantized, and what was not and why.

    Raises:
        FileExistsError: If the destination exists.
        ValueError: If the source is quantized already or has nothing to quantize, or the
            destination lies in it.
    """
    if destination.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{destination} lies in {source}, whose contents are copied")
    with new_folder(destination) as folder:
        stored = AutoConfig.from_pretrained(source)
        if existing := getattr(stored, "quantization_config", None):
            raise ValueError(f"{source} is quantized already ({existing.get('quant_method')})")
        model = load_model(source, quantization_config=config, dtype=dtype)
        report = coverage(model)
        if report.quantized_parameters == 0:
            raise ValueError(f"{source} has no layer to quantize\n{report}")
        model.save_pretrained(folder)
        copy_companions(source, folder)
    return report


def copy_companions(source: Path, folder: Path) -> None:
    """Copies what goes with a model: all but weights, hidden files and what is there already."""
    shutil.copytree(
        source, folder, ignore=_not_to_copy, copy_function=_copy_new, dirs_exist_ok=True
    )


def _not_to_copy(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(".") or _WEIGHTS.fullmatch(name)]


def _copy_new(source: str, destination: str) -> None:
    if not Path(destination).exists():
        shutil.copy2(source, destination)


def weight_bytes(folder: Path) -> int:
    """Size of the files in a model folder that hold its weights."""
    return sum(file.stat().st_size for file in folder.iterdir() if _WEIGHTS.fullmatch(file.name))
