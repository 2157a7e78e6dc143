"""Deliberately broken backends: the proof that the suite bites.

Each mutant is the reference backend with one mistake, of a kind that real libraries have shipped or
that the author of a kernel makes on the first day, and names the case that must catch it. A mutant
that survives is a fault of the suite.
"""

from kq_conformance.mutants import (
    decoders,
    experts,
    gradients,
    int8_products,
    int8_rows,
    memories,
    norms,
    optimizers,
    processes,
    products,
    quantizers,
    refusals,
    roundings,
    rules,
    states,
)
from kq_conformance.mutants.mutant import REGISTERED, Mutant

__all__ = [
    "MUTANTS",
    "Mutant",
    "decoders",
    "experts",
    "gradients",
    "int8_products",
    "int8_rows",
    "memories",
    "norms",
    "optimizers",
    "processes",
    "products",
    "quantizers",
    "refusals",
    "roundings",
    "rules",
    "states",
]

MUTANTS: tuple[Mutant, ...] = tuple(REGISTERED)
