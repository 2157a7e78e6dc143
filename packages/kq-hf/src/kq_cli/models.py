"""Loading what a command works on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kq_cli.reporting import activity, notes

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DTYPES = ("auto", "float32", "bfloat16", "float16")


def check_dtype(dtype: str) -> str:
    """Raises ValueError unless the dtype is one that models can be loaded in."""
    if dtype not in _DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    return dtype


def quiet_transformers() -> None:
    """Silences remarks of transformers, and its progress bars where nobody watches.

    Also the first import of transformers, which takes seconds.
    """
    with activity("starting"):
        from transformers.utils import logging

        import kq_hf  # noqa: F401 - registers the method
    logging.set_verbosity_error()
    if not notes.is_terminal:
        logging.disable_progress_bar()


def open_model(
    name: str, dtype: str, device: str, *, causal: bool = True
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Loads a model, unless told otherwise a causal language model, and its tokenizer.

    Raises:
        ValueError: If that is impossible, saying why.
    """
    check_dtype(dtype)
    quiet_transformers()
    import torch

    from kq_hf.checkpoint import load_model, load_tokenizer, model_folder

    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {device!r} cannot be used: {reason}") from error
    folder = model_folder(name)
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, dtype=dtype)
    if causal and not model.can_generate():
        raise ValueError(f"{name} is not a causal language model ({type(model).__name__})")
    move: Any = model.to  # a typed decorator in transformers has lost its self
    return move(place).eval(), tokenizer


def with_adapter(model: "PreTrainedModel", adapter: Path | None) -> "PreTrainedModel | PeftModel":
    """The model with a LoRA adapter in front of it, if there is one.

    Raises:
        ValueError: If the folder holds no adapter, or one for another model.
    """
    if adapter is None:
        return model
    if not (adapter / "adapter_config.json").is_file():
        raise ValueError(f"{adapter} is not an adapter: it has no adapter_config.json")
    from peft import PeftModel

    from kq_hf import lora

    try:
        adapted = PeftModel.from_pretrained(model, adapter)
    except Exception as error:  # PEFT has no common class for an adapter that does not fit
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the adapter {adapter} does not fit the model: {reason}") from error
    lora.adopt(adapted)
    adapted.eval()
    return adapted
