"""k-bit quantization for PyTorch: formats, registered ops and the backends that compute them."""

from .backends.base import Backend, Capability, Scales
from .blockwise import dequantize_blockwise, quantize_blockwise
from .codebooks import create_dynamic_map, create_linear_map, create_normal_map, get_4bit_type
from .four_bit import (
    dequantize_4bit,
    dequantize_fp4,
    dequantize_nf4,
    quantize_4bit,
    quantize_fp4,
    quantize_nf4,
)
from .grouped import linear_4bit_grouped
from .int8 import (
    int8_double_quant,
    int8_linear_matmul,
    int8_mm_dequant,
    int8_vectorwise_dequant,
    int8_vectorwise_quant,
)
from .int8_kept import KeptColumns, int8_kept_columns
from .int8_linear import int8_linear
from .int8_training import int8_linear_training
from .linear import linear_4bit
from .optimizer import optimizer_step_8bit, optimizer_step_32bit
from .registry import backends
from .rules import RULES, Rule
from .selection import explain, use_backend
from .state import QuantState

__version__ = "0.1.0"

__all__ = [
    "RULES",
    "Backend",
    "Capability",
    "KeptColumns",
    "QuantState",
    "Rule",
    "Scales",
    "__version__",
    "backends",
    "create_dynamic_map",
    "create_linear_map",
    "create_normal_map",
    "dequantize_4bit",
    "dequantize_blockwise",
    "dequantize_fp4",
    "dequantize_nf4",
    "explain",
    "get_4bit_type",
    "int8_double_quant",
    "int8_kept_columns",
    "int8_linear",
    "int8_linear_matmul",
    "int8_linear_training",
    "int8_mm_dequant",
    "int8_vectorwise_dequant",
    "int8_vectorwise_quant",
    "linear_4bit",
    "linear_4bit_grouped",
    "optimizer_step_8bit",
    "optimizer_step_32bit",
    "quantize_4bit",
    "quantize_blockwise",
    "quantize_fp4",
    "quantize_nf4",
    "use_backend",
]
