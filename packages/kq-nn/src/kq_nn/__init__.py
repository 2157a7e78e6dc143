"""4-bit layers for PyTorch: drop-in linear layers, and a converter for whole models."""

from importlib.metadata import version

from kq_nn.convert import quantize_model
from kq_nn.coverage import CoverageReport, SkippedModule
from kq_nn.linear4bit import Linear4bit, LinearFP4, LinearNF4

__all__ = [
    "CoverageReport",
    "Linear4bit",
    "LinearFP4",
    "LinearNF4",
    "SkippedModule",
    "__version__",
    "quantize_model",
]

__version__ = version("kq-nn")
