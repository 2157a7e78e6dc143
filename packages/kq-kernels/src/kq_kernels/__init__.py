"""CPU micro-kernels for k-bit quantization.

The package knows nothing of torch or NumPy. An array argument is either a row-major contiguous
CPU array that speaks DLPack or the buffer protocol (NumPy's, for instance), or a tuple
``(address, size, dtype)``: the number of elements, and ``"float32"``, ``"bfloat16"``,
``"float16"``, ``"uint8"``, ``"int8"`` or ``"int32"``. An array that is only read is described by
DLPack's C exchange table if its type has one (``__dlpack_c_exchange_api__``, as torch's tensors
have), at the cost of a tuple. Dtypes, sizes and null addresses are checked before anything is
written; a wrong argument raises TypeError or ValueError that names it. The interpreter's lock is
released while a kernel runs. ``threads=0`` lets OpenMP choose.

``optimizer_step_8bit`` and ``optimizer_step_32bit`` step a list of tensors; ``hyper`` are the
hyperparameters of the rule in the order that README.md gives. ``codes``, ``absmax`` and ``states``
list state 1 of all tensors, then state 2 of all. There, what is written may come through the
exchange table, too; as it does not tell what is read-only, the caller has to know.

The rows of the unquantized input (``x``, ``grad``) may lie apart: ``row_stride``, at least the
length of a row, is the distance in elements from one row to the next (None: no gap). The argument
is then the memory from the first to the last element, ``(rows - 1) * row_stride + cols`` elements
(none if a size is 0); what lies between the rows is not read. All other arrays are contiguous.

``linear_4bit_grouped`` multiplies the rows of many experts at once: ``counts`` lists how many rows
of ``x`` belong to each, one after the other. ``codes``, ``absmax`` and ``bias`` are those of all
experts, one weight [n, k] after the other.

The ``int8_*`` functions work with rows of int8 codes and one float32 scale each, the row's largest
magnitude: a value is ``code * absmax / 127``. Products of codes are exact, with at most 131,072
columns. ``outliers`` of ``int8_vectorwise_quant`` is one uint8 for each column, 0 or 1.

Formats are specified in ``docs/FORMAT.md``: blocks run along rows and never cross them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from kq_kernels import _native
from kq_kernels._native import (
    available_isas,
    dequantize_4bit,
    dequantize_blockwise,
    int8_linear,
    int8_linear_backward,
    int8_linear_matmul,
    int8_mm_dequant,
    int8_vectorwise_dequant,
    int8_vectorwise_quant,
    isa,
    linear_4bit,
    linear_4bit_backward,
    linear_4bit_grouped,
    linear_4bit_grouped_backward,
    optimizer_step_8bit,
    optimizer_step_32bit,
    quantize_4bit,
    quantize_blockwise,
)

__all__ = [
    "__version__",
    "available_isas",
    "build_info",
    "dequantize_4bit",
    "dequantize_blockwise",
    "int8_linear",
    "int8_linear_backward",
    "int8_linear_matmul",
    "int8_mm_dequant",
    "int8_vectorwise_dequant",
    "int8_vectorwise_quant",
    "isa",
    "linear_4bit",
    "linear_4bit_backward",
    "linear_4bit_grouped",
    "linear_4bit_grouped_backward",
    "optimizer_step_8bit",
    "optimizer_step_32bit",
    "quantize_4bit",
    "quantize_blockwise",
    "set_isa",
    "use_isa",
]

__version__: str = _native.__version__


def set_isa(name: str | None) -> None:
    """Selects the instruction set of every kernel of this process.

    Args:
        name: one of :func:`available_isas`, or None for the default: ``KQ_CPU_ISA`` if it is
            set, else the highest that can run here.

    Raises:
        ValueError: the name is unknown, or the processor or operating system cannot run it.
    """
    _native.set_isa(name or os.environ.get("KQ_CPU_ISA") or available_isas()[-1])


@contextlib.contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Selects an instruction set within a ``with`` block (process-wide; meant for tests)."""
    before = isa()
    set_isa(name)
    try:
        yield
    finally:
        set_isa(before)


def build_info() -> dict[str, str]:
    """What a report needs to know of the build and of this process; all values are text.

    Returns:
        ``version``; ``isa``, the instruction set in force; ``available_isas``; ``compiler`` ("gcc
        12.2.0"); ``openmp``, the version of OpenMP compiled for ("4.5"); and with which flags for
        optimization, arithmetic and instructions the kernels of each instruction set were compiled:
        ``flags_scalar``, on x86-64 also ``flags_avx2``, ``flags_avx512``, ``flags_vnni``
        and ``flags_amx``.
    """
    return {
        "version": __version__,
        "isa": isa(),
        "available_isas": ", ".join(available_isas()),
        **_native.build,
    }


set_isa(None)
