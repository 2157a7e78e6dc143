"""Mistakes with the states of an optimizer, and with lists of tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kq_conformance.floats import BFLOAT16, Array, Float64
from kq_conformance.mutants.mutant import States, Stepped, killed_by
from kq_conformance.reference import OPTIMIZER_BLOCKSIZE, Codebook, Hyper
from kq_conformance.reference_backend import ReferenceBackend

__all__: list[str] = []


@killed_by("optimizer_step_8bit/adam/float32/plain")
class CodesTooHigh(ReferenceBackend):
    """Codes of the second moment are rounded up."""

    def code_state(self, state: Float64, book: Codebook) -> tuple[Array, Float64]:
        codes, absmax = super().code_state(state, book)
        if book.zero == 0:
            codes[codes < 255] += 1
        return codes, absmax


@killed_by("optimizer_step_8bit/adam/float32/plain")
class UnsignedMapReadAsSigned(ReferenceBackend):
    """The second moment is decoded with the map of the first."""

    def optimizer_step_8bit(
        self,
        rule: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        codes: Sequence[Any],
        absmax: Sequence[Any],
        code_maps: Sequence[Any],
        steps: Sequence[int],
        **hyper: Any,
    ) -> None:
        maps = [code_maps[0]] * len(code_maps)
        super().optimizer_step_8bit(rule, params, grads, codes, absmax, maps, steps, **hyper)


@killed_by("optimizer_step_8bit/adam/float32/zero-gradient-first", ledger="D1")
class FloorUnderTheMoments(ReferenceBackend):
    """Zero is encoded as the next code, so that weights without a gradient drift."""

    def code_state(self, state: Float64, book: Codebook) -> tuple[Array, Float64]:
        codes, absmax = super().code_state(state, book)
        return np.where(codes == book.zero, book.zero + 1, codes).astype(np.uint8), absmax


@killed_by("optimizer_step_8bit/adam/float32/plain")
class MovesByTheCodedMoments(ReferenceBackend):
    """The parameter moves by the moments as they were encoded, and not as they were computed."""

    _books: Sequence[Codebook] | None = None

    def optimizer_step_8bit(
        self,
        rule: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        codes: Sequence[Any],
        absmax: Sequence[Any],
        code_maps: Sequence[Any],
        steps: Sequence[int],
        **hyper: Any,
    ) -> None:
        self._books = [self.code_map(self.load(each)) for each in code_maps]
        super().optimizer_step_8bit(rule, params, grads, codes, absmax, code_maps, steps, **hyper)
        self._books = None

    def update(
        self, rule: str, p: Float64, g: Float64, states: States, step: int, hyper: Hyper
    ) -> Stepped:
        moved, states = super().update(rule, p, g, states, step, hyper)
        if self._books is None or rule != "adam":
            return moved, states
        m, v = (
            self.load_state(*self.code_state(state, book), book)
            for state, book in zip(states, self._books, strict=True)
        )
        kept = 1 - hyper.lr * hyper.weight_decay if hyper.decoupled else 1.0
        with np.errstate(invalid="ignore", divide="ignore"):
            m_hat = m / (1 - hyper.own["beta1"] ** step)
            v_hat = v / (1 - hyper.own["beta2"] ** step)
            return p * kept - hyper.lr * m_hat / (np.sqrt(v_hat) + hyper.own["eps"]), states


@killed_by("optimizer_step_32bit/ademamix/float32/plain", ledger="D3")
class HalfOfTheState(ReferenceBackend):
    """The first moment is allocated half as long as the kernel indexes it."""

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        states: Sequence[Any],
        steps: Sequence[int],
        **hyper: Any,
    ) -> None:
        before = [self.load(each) for each in states[: len(params)]]
        super().optimizer_step_32bit(rule, params, grads, states, steps, **hyper)
        for state, old in zip(states, before, strict=False):
            new, half = self.load(state), old.size // 2
            self.store(state, np.concatenate([new[:half], old[half:]]))


@killed_by("optimizer_step_8bit/ademamix/float32/plain", ledger="D4")
class SlotsCollide(ReferenceBackend):
    """Scales of two moments share a row, and those of the second begin at floor(n/256)."""

    def optimizer_step_8bit(
        self,
        rule: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        codes: Sequence[Any],
        absmax: Sequence[Any],
        *rest: Any,
        **hyper: Any,
    ) -> None:
        super().optimizer_step_8bit(rule, params, grads, codes, absmax, *rest, **hyper)
        for i in range(len(params) if len(absmax) > len(params) else 0):
            second = absmax[len(params) + i]
            begin = codes[i].numel() // OPTIMIZER_BLOCKSIZE
            row = np.concatenate([self.load(absmax[i]), self.load(second)])
            row[begin : begin + second.numel()] = self.load(second)
            self.store(absmax[i], row[: second.numel()])


@killed_by("optimizer_step_32bit/adam/bfloat16/plain")
class StatesInBfloat16(ReferenceBackend):
    """The moments are rounded to bfloat16, the type of the parameter."""

    def update(
        self, rule: str, p: Float64, g: Float64, states: States, step: int, hyper: Hyper
    ) -> Stepped:
        p, states = super().update(rule, p, g, states, step, hyper)
        return p, tuple(BFLOAT16.round(each) for each in states)


@killed_by("optimizer_step_32bit/adam/float32/plain")
class FirstTensorOnly(ReferenceBackend):
    """Of a list of tensors only the first is stepped."""

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        states: Sequence[Any],
        steps: Sequence[int],
        **hyper: Any,
    ) -> None:
        first = states[:: len(params)]
        super().optimizer_step_32bit(rule, params[:1], grads[:1], first, steps[:1], **hyper)


@killed_by("optimizer_step_32bit/adam/float32/many-tensors")
class FirstLaunchOnly(ReferenceBackend):
    """A kernel takes 110 tensors at once, and is started once."""

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        states: Sequence[Any],
        steps: Sequence[int],
        **hyper: Any,
    ) -> None:
        super().optimizer_step_32bit(rule, params, grads, states, steps[:110], **hyper)


@killed_by("optimizer_step_32bit/adam/float32/plain")
class StepOfTheFirstTensor(ReferenceBackend):
    """All tensors of a list are stepped with the step number of the first."""

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        states: Sequence[Any],
        steps: Sequence[int],
        **hyper: Any,
    ) -> None:
        same = [steps[0]] * len(steps)
        super().optimizer_step_32bit(rule, params, grads, states, same, **hyper)
