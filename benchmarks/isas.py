"""Which instruction sets of kq a run measures."""

from __future__ import annotations

import os
from collections.abc import Sequence

import kq_kernels


def chosen_isas(names: Sequence[str] = ()) -> tuple[str, ...]:
    """Instruction sets, best first.

    Args:
        names: those asked for. Without any: the one that KQ_CPU_ISA forces, or else the best one
            of this processor and AVX2, so that one run gives the figures of both.

    Raises:
        ValueError: this processor, or kq, cannot run one of them.
    """
    available = kq_kernels.available_isas()
    for name in names:
        if name not in available:
            raise ValueError(f"isa must be one of {', '.join(available)}, got {name!r}")
    if not names:
        best = kq_kernels.isa()
        names = (best,) if os.environ.get("KQ_CPU_ISA") or best == "scalar" else (best, "avx2")
    return tuple(name for name in reversed(available) if name in names)
