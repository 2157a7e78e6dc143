"""The questions: every case has an id, and its inputs follow from the id and a seed alone."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from kq_conformance.cases.case import Case, Demand, Mode, Problem, Profile
from kq_conformance.cases.dequantizers import dequantizer_cases
from kq_conformance.cases.linears import linear_cases
from kq_conformance.cases.optimizers import optimizer_cases
from kq_conformance.cases.quantizers import quantizer_cases

__all__ = ["Case", "Demand", "Mode", "Problem", "Profile", "select"]


def select(profile: Profile = Profile.FULL, pattern: str = "*") -> Iterator[Case]:
    """Cases of a profile whose id matches a glob.

    Args:
        profile: the cases of this profile and of the smaller ones.
        pattern: shell-style pattern over the whole id; `*` also matches slashes.
    """
    for source in (quantizer_cases, dequantizer_cases, linear_cases, optimizer_cases):
        for case in source():
            if case.profile <= profile and fnmatchcase(case.id, pattern):
                yield case
