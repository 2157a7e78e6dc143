"""Mistakes that any update rule can have; shown with Adam."""

from dataclasses import replace

import numpy as np

from kq_conformance.floats import BFLOAT16, FLOAT32, Float64
from kq_conformance.mutants.mutant import States, Stepped, killed_by
from kq_conformance.reference import Hyper
from kq_conformance.reference_backend import ReferenceBackend

__all__: list[str] = []


class OtherHyper(ReferenceBackend):
    """No mistake: hyperparameters pass through a method."""

    def seen(self, hyper: Hyper) -> Hyper:
        """The hyperparameters that the step uses."""
        return hyper

    def update(
        self, rule: str, p: Float64, g: Float64, states: States, step: int, hyper: Hyper
    ) -> Stepped:
        """See `ReferenceBackend.update`."""
        return super().update(rule, p, g, states, step, self.seen(hyper))


@killed_by("optimizer_step_32bit/adam/float32/decoupled-decay", ledger="D6")
class DecayAlwaysCoupled(OtherHyper):
    """AdamW is run as Adam with L2 regularization."""

    def seen(self, hyper: Hyper) -> Hyper:
        return replace(hyper, decoupled=False)


@killed_by("optimizer_step_32bit/adam/float32/coupled-decay", ledger="D6")
class DecayAlwaysDecoupled(OtherHyper):
    """Adam with L2 regularization is run as AdamW."""

    def seen(self, hyper: Hyper) -> Hyper:
        return replace(hyper, decoupled=True)


@killed_by("optimizer_step_32bit/adam/float32/maximize")
class MaximizeIgnored(OtherHyper):
    """The step always descends."""

    def seen(self, hyper: Hyper) -> Hyper:
        return replace(hyper, maximize=False)


@killed_by("optimizer_step_8bit/adam/bfloat16/plain", ledger="D18")
class LearningRateInBfloat16(OtherHyper):
    """The learning rate is rounded to bfloat16, the type of the parameter."""

    def seen(self, hyper: Hyper) -> Hyper:
        return replace(hyper, lr=float(BFLOAT16.round(hyper.lr)))


@killed_by("optimizer_step_32bit/adam/float32/plain")
class FactorInFloat32(OtherHyper):
    """1 - β₂ is computed in float32, off by up to 1000 roundings."""

    def seen(self, hyper: Hyper) -> Hyper:
        beta2 = 1 - float(np.float32(1) - np.float32(hyper.own["beta2"]))
        return replace(hyper, own={**hyper.own, "beta2": beta2})


class OtherUpdate(ReferenceBackend):
    """No mistake: Adam's update of the parameter is written down once more, in parts."""

    def moved(self, m: Float64, v: Float64, step: int, hyper: Hyper) -> Float64:
        """What the parameter loses, beside its decay; from the new moments."""
        # Overflow is infinity.
        beta1, beta2 = np.float64(hyper.own["beta1"]), np.float64(hyper.own["beta2"])
        correction1, correction2 = 1 - beta1**step, np.sqrt(1 - beta2**step)
        size = hyper.lr * correction2 / correction1
        updated: Float64 = size * m / (np.sqrt(v) + hyper.own["eps"] * correction2)
        return updated

    def update(
        self, rule: str, p: Float64, g: Float64, states: States, step: int, hyper: Hyper
    ) -> Stepped:
        """See `ReferenceBackend.update`."""
        stepped, states = super().update(rule, p, g, states, step, hyper)
        if rule != "adam":
            return stepped, states
        m, v = states
        kept = 1 - hyper.lr * hyper.weight_decay if hyper.decoupled else 1.0
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return p * kept - self.moved(m, v, step, hyper), states


@killed_by("optimizer_step_8bit/adam/float32/first-step")
class BiasCorrectionMissing(OtherUpdate):
    """The moments are used as they are, though they start at zero."""

    def moved(self, m: Float64, v: Float64, step: int, hyper: Hyper) -> Float64:
        del step
        return super().moved(m, v, 1_000_000_000, hyper)


@killed_by("optimizer_step_8bit/adam/float32/first-step", ledger="D16")
class CorrectionsLeftOut(OtherUpdate):
    """The size of the update lacks the factor c₂/c₁: 0.316 at the first step."""

    def moved(self, m: Float64, v: Float64, step: int, hyper: Hyper) -> Float64:
        floor = hyper.own["eps"] * np.sqrt(1 - hyper.own["beta2"] ** step)
        updated: Float64 = hyper.lr * m / (np.sqrt(v) + floor)
        return updated


@killed_by("optimizer_step_32bit/adam/float32/large-eps")
class EpsInsideTheRoot(OtherUpdate):
    """The root is taken of v̂ + ε."""

    def moved(self, m: Float64, v: Float64, step: int, hyper: Hyper) -> Float64:
        m_hat, v_hat = m / (1 - hyper.own["beta1"] ** step), v / (1 - hyper.own["beta2"] ** step)
        updated: Float64 = hyper.lr * m_hat / np.sqrt(v_hat + hyper.own["eps"])
        return updated


@killed_by("optimizer_step_32bit/adam/float32/large-eps")
class EpsNotScaled(OtherUpdate):
    """ε is added to the root of v, before its bias correction."""

    def moved(self, m: Float64, v: Float64, step: int, hyper: Hyper) -> Float64:
        correction1, correction2 = (
            1 - hyper.own["beta1"] ** step,
            np.sqrt(1 - hyper.own["beta2"] ** step),
        )
        size = hyper.lr * correction2 / correction1
        updated: Float64 = size * m / (np.sqrt(v) + hyper.own["eps"])
        return updated


@killed_by("optimizer_step_32bit/adam/float32/plain")
class StepCountedFromZero(OtherUpdate):
    """The bias correction is that of the step before."""

    def moved(self, m: Float64, v: Float64, step: int, hyper: Hyper) -> Float64:
        return super().moved(m, v, max(step - 1, 1), hyper)


@killed_by("optimizer_step_32bit/adam/float32/beyond-int32")
class StepsInInt32(OtherUpdate):
    """The step number is cast to 32 bits, and becomes negative from 2³¹ on."""

    def moved(self, m: Float64, v: Float64, step: int, hyper: Hyper) -> Float64:
        return super().moved(m, v, int(np.int64(step).astype(np.int32)), hyper)


@killed_by("optimizer_step_32bit/adam/float32/large")
class IndexOfAParameterWraps(ReferenceBackend):
    """Stands for an overflow: the index of an element of a parameter has 16 bits."""

    def update(
        self, rule: str, p: Float64, g: Float64, states: States, step: int, hyper: Hyper
    ) -> Stepped:
        wrapped = g[np.arange(g.size) % (1 << 16)]
        return super().update(rule, p, wrapped, states, step, hyper)


@killed_by("optimizer_step_32bit/adam/float32/denormal")
class SubnormalMomentsFlushed(ReferenceBackend):
    """Moments below the normal range become zero."""

    def update(
        self, rule: str, p: Float64, g: Float64, states: States, step: int, hyper: Hyper
    ) -> Stepped:
        p, states = super().update(rule, p, g, states, step, hyper)
        return p, tuple(np.where(np.abs(each) < 2.0**FLOAT32.emin, 0.0, each) for each in states)


@killed_by("optimizer_step_32bit/adam/float32/coupled-decay", ledger="D5")
class DecayMissesTheUpdate(ReferenceBackend):
    """The decay enters the states, but the update is that of the raw gradient."""

    def update(
        self, rule: str, p: Float64, g: Float64, states: States, step: int, hyper: Hyper
    ) -> Stepped:
        raw = hyper if hyper.decoupled else replace(hyper, weight_decay=0.0)
        moved, _ = super().update(rule, p, g, states, step, raw)
        _, states = super().update(rule, p, g, states, step, hyper)
        return moved, states


@killed_by("optimizer_step_32bit/adam/float32/decoupled-decay")
class DecayOfTheNewParameter(ReferenceBackend):
    """The decay takes its share of the parameter that has already moved."""

    def update(
        self, rule: str, p: Float64, g: Float64, states: States, step: int, hyper: Hyper
    ) -> Stepped:
        if not hyper.decoupled:
            return super().update(rule, p, g, states, step, hyper)
        p, states = super().update(rule, p, g, states, step, replace(hyper, weight_decay=0.0))
        return p * (1 - hyper.lr * hyper.weight_decay), states


@killed_by("optimizer_step_32bit/adam/float32/maximize-coupled")
class DecayAscends(ReferenceBackend):
    """To maximize, the sign is changed after the decay has been added."""

    def update(
        self, rule: str, p: Float64, g: Float64, states: States, step: int, hyper: Hyper
    ) -> Stepped:
        if hyper.maximize and not hyper.decoupled:
            hyper = replace(hyper, weight_decay=-hyper.weight_decay)
        return super().update(rule, p, g, states, step, hyper)


@killed_by("optimizer_step_32bit/adam/float32/nonfinite")
class DamagedGradientIsZero(ReferenceBackend):
    """A gradient of NaN or infinity counts as zero."""

    def update(
        self, rule: str, p: Float64, g: Float64, states: States, step: int, hyper: Hyper
    ) -> Stepped:
        return super().update(rule, p, np.where(np.isfinite(g), g, 0.0), states, step, hyper)
