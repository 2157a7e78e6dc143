"""Quantized layers for PyTorch: drop-in linear layers, and a converter for whole models."""

from importlib.metadata import version

from kq_nn.convert import quantize_model
from kq_nn.coverage import CoverageReport, SkippedModule
from kq_nn.linear4bit import Linear4bit, LinearFP4, LinearNF4
from kq_nn.linear8bit import Linear8bitLt
from kq_nn.quantized import QuantizedLinear, is_quantized
from kq_nn.recipe import FORMATS, Recipe

__all__ = [
    "FORMATS",
    "CoverageReport",
    "Linear4bit",
    "Linear8bitLt",
    "LinearFP4",
    "LinearNF4",
    "QuantizedLinear",
    "Recipe",
    "SkippedModule",
    "__version__",
    "is_quantized",
    "quantize_model",
]

__version__ = version("kq-nn")
