"""Backends that accept what they must refuse, or refuse too late."""

from typing import Any

from kq_conformance.mutants.mutant import killed_by
from kq_conformance.reference import Codebook
from kq_conformance.reference_backend import ReferenceBackend
from kq_conformance.runner import Verdict

__all__: list[str] = []


@killed_by("quantize_4bit/nf4/b64/float32/refuse-quant-type")
class AcceptsAnyQuantType(ReferenceBackend):
    """An unknown quant_type is taken for NF4."""

    def check_4bit(self, quant_type: str, blocksize: int) -> None:
        del quant_type
        super().check_4bit("nf4", blocksize)

    def codebook(self, quant_type: str) -> Codebook:
        return super().codebook("fp4" if quant_type == "fp4" else "nf4")


@killed_by("quantize_4bit/nf4/b64/float32/refuse-blocksize/48")
class AcceptsAnyBlocksize(ReferenceBackend):
    """A block size that the format does not have is used as it is."""

    def check_4bit(self, quant_type: str, blocksize: int) -> None:
        super().check_4bit(quant_type, 64 if blocksize >= 1 else blocksize)


@killed_by("optimizer_step_8bit/adam/float32/refuse-rule")
class AcceptsAnyRule(ReferenceBackend):
    """An unknown rule is taken for Adam."""

    def check_rule(self, rule: str) -> None:
        """Accept it."""


@killed_by("quantize_4bit/nf4/b64/float32/refuse-quant-type")
class RefusesTooLate(ReferenceBackend):
    """The scales are written before the arguments are looked at."""

    def quantize_4bit(
        self, A: Any, packed: Any, absmax: Any, *, quant_type: str, blocksize: int
    ) -> None:
        self.store(absmax, self.absmax(self.load(A), blocksize))
        super().quantize_4bit(A, packed, absmax, quant_type=quant_type, blocksize=blocksize)


@killed_by("quantize_4bit/nf4/b64/float32/refuse-quant-type", Verdict.CRASH)
class RefusesByALookup(ReferenceBackend):
    """An unknown quant_type ends in a KeyError, which says nothing to the caller."""

    def check_4bit(self, quant_type: str, blocksize: int) -> None:
        super().check_4bit("nf4", blocksize)
        assert {"nf4": 0, "fp4": 1}[quant_type] >= 0
