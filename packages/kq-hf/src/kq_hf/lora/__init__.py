"""LoRA adapters of PEFT on quantized layers.

PEFT's own layer computes and trains correctly on a quantized layer, but cannot merge into one: it
would add to the codes. The layer here can. Either `register` it on a `LoraConfig` before
adapters are made, or `adopt` a model whose adapters PEFT has made already.
"""

from kq_hf.lora.layer import LoraLinear, MergeError
from kq_hf.lora.model import MergeReport, adopt, merge_and_unload, register

__all__ = [
    "LoraLinear",
    "MergeError",
    "MergeReport",
    "adopt",
    "merge_and_unload",
    "register",
]
