"""The questions: every case has an id, and its inputs follow from the id and a seed alone."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache

from kq_conformance.cases.case import Address, Case, Demand, Mode, Problem, Profile, address
from kq_conformance.cases.dequantizers import dequantizer_cases
from kq_conformance.cases.grouped import grouped_cases
from kq_conformance.cases.int8_linears import int8_linear_cases
from kq_conformance.cases.int8_products import int8_product_cases
from kq_conformance.cases.int8_quantizers import int8_quantizer_cases
from kq_conformance.cases.large import large_cases
from kq_conformance.cases.linears import linear_cases
from kq_conformance.cases.optimizers import optimizer_cases
from kq_conformance.cases.public import public_cases
from kq_conformance.cases.quantizers import quantizer_cases
from kq_conformance.cases.refusals import refusal_cases

__all__ = [
    "Address",
    "Case",
    "Demand",
    "Mode",
    "Problem",
    "Profile",
    "address",
    "by_id",
    "select",
]


_SOURCES = (
    quantizer_cases,
    dequantizer_cases,
    linear_cases,
    grouped_cases,
    int8_quantizer_cases,
    int8_product_cases,
    int8_linear_cases,
    optimizer_cases,
    refusal_cases,
    public_cases,
    large_cases,
)


def select(profile: Profile = Profile.FULL, pattern: str = "*") -> Iterator[Case]:
    """Cases of a profile whose id matches a glob.

    Args:
        profile: the cases of this profile and of the smaller ones.
        pattern: shell-style pattern over the whole id; `*` also matches slashes.
    """
    for source in _SOURCES:
        for case in source():
            if case.profile <= profile and fnmatchcase(case.id, pattern):
                yield case


@cache
def _all() -> dict[str, Case]:
    return {case.id: case for case in select()}


def by_id(case_id: str) -> Case:
    """The case of an id.

    Raises:
        ValueError: if there is none.
    """
    try:
        return _all()[case_id]
    except KeyError:
        raise ValueError(f"there is no case {case_id!r}") from None
