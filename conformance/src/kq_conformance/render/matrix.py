"""The matrix operation × format × dtype of a report, and the case of each cell that stands out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kq_conformance.cases import address
from kq_conformance.runner import Verdict

__all__ = ["ABSENT", "Cell", "Extreme", "Matrix", "in_cell", "matrix", "number"]

ABSENT = "\N{EN DASH}"  # what stands in the place of what is not declared


def number(value: float | str) -> float:
    """A figure of a report: JSON has no infinities, which are written as text."""
    return float(value)


def _rank(value: float) -> float:
    """Order of badness: NaN is as bad as it gets."""
    return math.inf if math.isnan(value) else value


def in_cell(case_id: str) -> str:
    """What is left of an id when operation, format and dtype are known."""
    _, _, blocksize, _, name = address(case_id)
    return name if blocksize is None else f"b{blocksize}/{name}"


@dataclass(frozen=True)
class Extreme:
    """The largest figure of a cell and the case that had it."""

    value: float
    case: str

    @property
    def short(self) -> str:
        """The case's id without operation, format and dtype."""
        return in_cell(self.case)


@dataclass(frozen=True)
class Cell:
    """One operation with one format and one dtype.

    Attributes:
        op: operation.
        format: 4-bit codebook, 8-bit map or update rule.
        dtype: type of the unquantized tensor.
        counts: number of cases by verdict, those that occurred.
        waived: number of waived cases.
        tightness: the case nearest to its bound, or farthest beyond it; None if nothing was judged.
        statistical: the same for the statistical figure; None where no case has one.
        exact: every judged case had a rule that allows one answer only.
    """

    op: str
    format: str
    dtype: str
    counts: Mapping[str, int]
    waived: int
    tightness: Extreme | None = None
    statistical: Extreme | None = None
    exact: bool = False

    @property
    def all_exact(self) -> bool:
        """True if one answer was allowed, and came, in every judged case."""
        return self.exact and self.tightness is not None and self.tightness.value == 0

    @property
    def passed(self) -> int:
        """Number of cases that passed."""
        return self.counts.get(Verdict.PASS, 0)

    @property
    def silent(self) -> int:
        """Number of cases that the backend has not declared."""
        return sum(self.counts.get(v, 0) for v in (Verdict.UNSUPPORTED, Verdict.UNDER_CLAIM))

    @property
    def asked(self) -> int:
        """Number of cases that the backend has declared."""
        return sum(self.counts.values()) - self.silent

    @property
    def failed(self) -> int:
        """Number of cases that failed in one way or another, and are not waived."""
        bad = (n for verdict, n in self.counts.items() if not Verdict(verdict).acceptable)
        return sum(bad) - self.waived

    @property
    def state(self) -> str:
        """What the cell's color says: fail, waived, pass, under-claim or unsupported."""
        if self.failed:
            return "fail"
        if self.waived:
            return "waived"
        if self.passed:
            return "pass"
        return "under-claim" if self.counts.get(Verdict.UNDER_CLAIM) else "unsupported"


@dataclass(frozen=True)
class Matrix:
    """All cells of a report.

    Attributes:
        dtypes: the columns, in the order of the suite.
        rows: cells by operation, format and dtype, in the order of the suite.
    """

    dtypes: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Mapping[str, Cell]]]

    @property
    def cells(self) -> list[Cell]:
        """Every cell once, row by row."""
        return [
            cell
            for formats in self.rows.values()
            for by_dtype in formats.values()
            for cell in by_dtype.values()
        ]


def matrix(document: dict[str, Any]) -> Matrix:
    """Put the cases of a report into the cells of its coverage."""
    judged: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for case in document["cases"]:
        if "rule" in case:
            op, format_, _, dtype, _ = address(case["id"])
            judged.setdefault((op, format_, dtype), []).append(case)
    rows: dict[str, dict[str, dict[str, Cell]]] = {}
    for entry in document["coverage"]:
        key = op, format_, dtype = entry["op"], entry["format"], entry["dtype"]
        cases = judged.get(key, [])
        rows.setdefault(op, {}).setdefault(format_, {})[dtype] = Cell(
            *key,
            counts=entry["counts"],
            waived=entry["waived"],
            tightness=_largest(cases, "tightness"),
            statistical=_largest(cases, "statistical"),
            exact=bool(cases) and all(document["rules"][c["rule"]]["exact"] for c in cases),
        )
    dtypes = dict.fromkeys(entry["dtype"] for entry in document["coverage"])
    return Matrix(tuple(dtypes), rows)


def _largest(cases: list[dict[str, Any]], figure: str) -> Extreme | None:
    """The case with the largest figure of this name, the first of equals."""
    having = [Extreme(number(case[figure]), case["id"]) for case in cases if figure in case]
    return max(having, key=lambda each: _rank(each.value), default=None)
