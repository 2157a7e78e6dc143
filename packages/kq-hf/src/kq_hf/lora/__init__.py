"""LoRA adapters of PEFT on 4-bit layers.

PEFT's own layer computes and trains correctly on a `Linear4bit`, but cannot merge into one: it
would add to the packed codes. The layer here can. Either `register` it on a `LoraConfig` before
adapters are made, or `adopt` a model whose adapters PEFT has made already.
"""

from kq_hf.lora.layer import LoraLinear4bit, MergeError
from kq_hf.lora.model import MergeReport, adopt, merge_and_unload, register

__all__ = [
    "LoraLinear4bit",
    "MergeError",
    "MergeReport",
    "adopt",
    "merge_and_unload",
    "register",
]
