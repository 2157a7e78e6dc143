"""Backends that accept what they must refuse, or refuse too late."""

from typing import Any

from kq_conformance.mutants.mutant import killed_by
from kq_conformance.reference import RULES, Codebook
from kq_conformance.reference_backend import ReferenceBackend, format_of
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

    def optimizer_step_8bit(self, rule: str, *lists: Any, **options: Any) -> None:
        super().optimizer_step_8bit(rule if rule in RULES else "adam", *lists, **options)


@killed_by("optimizer_step_32bit/adam/bfloat16/refuse-rounding")
class AcceptsAnyRounding(ReferenceBackend):
    """An unknown rounding is taken for the nearest."""

    def optimizer_step_32bit(self, rule: str, *lists: Any, **options: Any) -> None:
        others = options["rounding"] in ("stochastic", "corrected")
        known = options["rounding"] if others else "nearest"
        super().optimizer_step_32bit(rule, *lists, **options | {"rounding": known})


@killed_by("optimizer_step_8bit/lamb/bfloat16/plain", Verdict.OVER_CLAIM, ledger="D7")
class NamesMissing(ReferenceBackend):
    """LAMB and LARS with states of 8 bits are declared, and their names are not found."""

    def optimizer_step_8bit(self, rule: str, *lists: Any, **options: Any) -> None:
        if rule.startswith(("lamb", "lars")):
            raise ValueError(f"unknown rule {rule!r}")
        super().optimizer_step_8bit(rule, *lists, **options)


@killed_by("optimizer_step_32bit/rmsprop/bfloat16/plain", Verdict.OVER_CLAIM, ledger="D7")
class OneStateInFloat32Only(ReferenceBackend):
    """Rules of one state are declared for every type, and refuse bfloat16."""

    def optimizer_step_32bit(self, rule: str, params: Any, *lists: Any, **options: Any) -> None:
        if len(RULES[rule].signed) == 1 and any(format_of(each) == "bfloat16" for each in params):
            raise NotImplementedError(f"{rule} takes float32 and float16")
        super().optimizer_step_32bit(rule, params, *lists, **options)


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
