"""The machine's limits, as probes that run in the same rounds as the contenders.

They are simple loops of torch. A contender that uses better instructions (stores that bypass the
caches, for example) can beat one: then the fraction of the limit is above 100 %.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from benchmarks.data import dtype_name, gaussian
from benchmarks.harness import Probe
from benchmarks.plan import Plan
from kq_functional import int8_vectorwise_quant


@cache
def _operand(which: int, elements: int) -> Tensor:
    """Memory that all rows share; `which` tells operands of one probe apart."""
    del which
    return gaussian(elements)


def _operands(plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    elements = plan.probe // 4
    return _operand(0, elements), _operand(1, elements), _operand(2, elements)


def read(plan: Plan) -> list[Probe]:
    """Bandwidth of reading."""
    a, b, _ = _operands(plan)
    return [
        Probe("read", "sum of a tensor", a.sum, a.nbytes),
        Probe("read", "dot product", lambda: torch.dot(a, b), 2 * a.nbytes),
    ]


def copy(plan: Plan) -> list[Probe]:
    """Bandwidth of copying into memory that has been touched: bytes read plus bytes written."""
    a, _, out = _operands(plan)
    return [Probe("copy", "copy_ of a tensor", lambda: out.copy_(a), 2 * a.nbytes)]


def update(plan: Plan) -> list[Probe]:
    """Bandwidth of updating in place: bytes read plus bytes written."""
    a, b, out = _operands(plan)
    return [
        Probe("update", "lerp_ of a tensor", lambda: out.lerp_(a, 0.1), 3 * a.nbytes),
        Probe("update", "addcmul_ of a tensor", lambda: out.addcmul_(a, b), 4 * a.nbytes),
    ]


def compute(plan: Plan, *dtypes: torch.dtype) -> list[Probe]:
    """Rate of torch's dense matrix product, for each dtype."""
    size = plan.matmul

    def product(dtype: torch.dtype) -> Callable[[], Tensor]:
        a = _operand(0, size * size).view(size, size).to(dtype)
        b = _operand(1, size * size).view(size, size).to(dtype)
        return lambda: a @ b

    return [
        Probe("compute", f"matmul {dtype_name(dtype)}", product(dtype), 2 * size**3)
        for dtype in dtypes
    ]


def compute_int8(plan: Plan) -> list[Probe]:
    """Rate of torch's product of int8 matrices, with sums in int32."""
    size = plan.matmul
    a, b = (
        int8_vectorwise_quant(_operand(which, size * size).view(size, size))[0] for which in (0, 1)
    )
    return [Probe("int8 compute", "_int_mm", lambda: torch._int_mm(a, b), 2 * size**3)]
