"""Judging results of billions of elements row by row, without computing the reference for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kq_conformance.bounds import Judgement, Strictness
from kq_conformance.cases.case import Problem
from kq_conformance.floats import Array
from kq_conformance.subject import Outputs, Subject

__all__ = ["Part", "Tiled"]

# The question about one row of the whole, and its answer.
Part = Callable[[Outputs, int], tuple[Problem, Outputs]]

_CHUNK = 256  # rows compared at a time: some tens of megabytes


@dataclass(frozen=True, eq=False)
class Tiled:
    """A call whose rows are judged like calls of their own.

    Rows with the very bytes that the reference gives are accepted; the first row, the last one and
    every other are judged by the bounds of the row alone, until one fails.

    Attributes:
        whole: the call with all rows.
        expected: bit patterns of each result: pieces that lie side by side, [R, ...] each, which
            may be views of something small.
        part: takes one row out of the results.
    """

    whole: Problem
    expected: Callable[[Outputs], dict[str, list[Array]]]
    part: Part

    def call(self, subject: Subject) -> Outputs:
        """Run the backend once."""
        return self.whole.call(subject)

    def judge(self, outputs: Outputs, strictness: Strictness) -> Sequence[Judgement]:
        """The judgements of the first row that fails, or else of the last row."""
        expected = self.expected(outputs)
        rows = len(next(iter(expected.values()))[0])
        doubtful = {0, rows - 1}
        for name, pieces in expected.items():
            got = outputs[name].bits.reshape(rows, -1)
            doubtful.update(_differing(got, pieces))
        judged: Sequence[Judgement] = ()
        for row in sorted(doubtful):
            problem, answer = self.part(outputs, row)
            judged = [_in_row(each, row, rows) for each in problem.judge(answer, strictness)]
            if not all(each.passed for each in judged):
                return judged
        return judged


def _differing(got: Array, pieces: Sequence[Array]) -> set[int]:
    """The rows of [R, C] that are not their pieces, put side by side."""
    found: set[int] = set()
    for start in range(0, len(got), _CHUNK):
        stop, column = start + _CHUNK, 0
        for piece in pieces:
            part = got[start:stop, column : column + piece.shape[1]]
            column += piece.shape[1]
            unequal = (part != piece[start:stop]).any(axis=1)
            found.update((start + np.flatnonzero(unequal)).tolist())
        assert column == got.shape[1]
    return found


def _in_row(judgement: Judgement, row: int, rows: int) -> Judgement:
    """What was said of one row, as said of all rows."""
    worst = judgement.worst
    if worst is not None:
        worst = worst._replace(place=(row, worst.place[-1]))
    return replace(judgement, elements=judgement.elements * rows, worst=worst)
