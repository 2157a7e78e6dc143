"""The registered torch ops of namespace `kq`: importing this package defines them.

An op checks tensors (dtypes, sizes, devices: native code gets raw pointers), allocates results,
makes 2-D views and hands over to a backend. What does not depend on a tensor's size (block size,
quant_type, dtype) is checked when a backend is chosen for that kind of call, that is once.
"""

from . import (
    blockwise,
    four_bit,
    grouped,
    int8,
    int8_columns,
    int8_linear,
    linear,
    mean,
    optimizer,
)

__all__ = [
    "blockwise",
    "four_bit",
    "grouped",
    "int8",
    "int8_columns",
    "int8_linear",
    "linear",
    "mean",
    "optimizer",
]
