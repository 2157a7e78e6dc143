"""Optimizers for PyTorch whose state takes 8 bits a value, and the same with 32-bit state."""

from importlib.metadata import version

from kq_optim.adam import Adam, Adam8bit, Adam32bit, AdamW, AdamW8bit, AdamW32bit
from kq_optim.optimizer import Optimizer

__all__ = [
    "Adam",
    "Adam8bit",
    "Adam32bit",
    "AdamW",
    "AdamW8bit",
    "AdamW32bit",
    "Optimizer",
    "__version__",
]

__version__ = version("kq-optim")
