"""Mistakes in single update rules."""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from kq_conformance.floats import BFLOAT16, Float64
from kq_conformance.mutants.mutant import States, Stepped, killed_by
from kq_conformance.reference import RULES, Hyper, optimizer_step
from kq_conformance.reference_backend import ReferenceBackend

__all__ = ["OtherRule", "having"]


def having(hyper: Hyper, **own: Any) -> Hyper:
    """The hyperparameters with some of the rule's own changed."""
    return replace(hyper, own={**hyper.own, **own})


class OtherRule(ReferenceBackend):
    """No mistake: the steps of one rule pass through a method."""

    rule: ClassVar[str] = ""

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        """One step of that rule."""
        return optimizer_step(self.rule, p, g, states, step, hyper)

    def update(
        self, rule: str, p: Float64, g: Float64, states: States, step: int, hyper: Hyper
    ) -> Stepped:
        """See `ReferenceBackend.update`."""
        if rule != self.rule:
            return super().update(rule, p, g, states, step, hyper)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return self.stepped(p, g, states, step, hyper)


@killed_by("optimizer_step_32bit/sgd/float32/grad-scale")
class GradientTimesItsScale(OtherRule):
    """The gradient is multiplied by the scale that it should be divided by."""

    rule = "sgd"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        inverted = replace(hyper, grad_scale=1 / hyper.grad_scale)
        return super().stepped(p, g, states, step, inverted)


@killed_by("optimizer_step_32bit/sgd/float32/decoupled-decay")
class DecayWithoutTheRate(OtherRule):
    """A decoupled decay is λ, and not ηλ."""

    rule = "sgd"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        if hyper.decoupled:
            p = p * (1 - hyper.weight_decay)
        raw = replace(hyper, weight_decay=0.0) if hyper.decoupled else hyper
        return super().stepped(p, g, states, step, raw)


@killed_by("optimizer_step_8bit/momentum/float32/nesterov")
class NesterovIgnored(OtherRule):
    """The argument is accepted and not used."""

    rule = "momentum"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        return super().stepped(p, g, states, step, having(hyper, nesterov=0.0))


@killed_by("optimizer_step_8bit/momentum/float32/dampening")
class DampeningIgnored(OtherRule):
    """The argument is accepted and not used."""

    rule = "momentum"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        return super().stepped(p, g, states, step, having(hyper, dampening=0.0))


@killed_by("optimizer_step_32bit/momentum/float32/dampening-first")
class DampenedFromTheStart(OtherRule):
    """Dampening holds back the gradient of the first step, too."""

    rule = "momentum"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        return super().stepped(p, g, states, max(step, 2), hyper)


@killed_by("optimizer_step_32bit/amsgrad/float32/plain")
class LargestNotUsed(OtherRule):
    """AMSGrad is run as Adam."""

    rule = "amsgrad"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        moved, new = optimizer_step("adam", p, g, states[:2], step, hyper)
        return moved, (*new, np.maximum(states[2], new[1]))


@killed_by("optimizer_step_8bit/amsgrad/float32/plain")
class LargestForgotten(OtherRule):
    """What is kept as the largest second moment is the last one."""

    rule = "amsgrad"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        moved, (m, v, _) = super().stepped(p, g, states, step, hyper)
        return moved, (m, v, v)


@killed_by("optimizer_step_8bit/amsgrad/float32/other-numbers")
class UsualNumbersBuiltIn(OtherRule):
    """Hyperparameters are accepted, and the usual ones used."""

    rule = "amsgrad"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        return super().stepped(p, g, states, step, having(hyper, **RULES[self.rule].usual))


@killed_by("optimizer_step_8bit/ademamix/float32/plain", ledger="D3")
class SlowMomentStands(OtherRule):
    """The slow moment is used, and never written."""

    rule = "ademamix"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        moved, (fast, _, v) = super().stepped(p, g, states, step, hyper)
        return moved, (fast, states[1], v)


@killed_by("optimizer_step_32bit/ademamix/float32/warming-up", ledger="D3")
class WarmUpsIgnored(OtherRule):
    """The slow moment has its full share and decay from the first step on."""

    rule = "ademamix"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        return super().stepped(p, g, states, step, having(hyper, t_alpha=0.0, t_beta3=0.0))


@killed_by("optimizer_step_32bit/ademamix/float32/plain")
class SlowMomentCorrected(OtherRule):
    """The slow moment gets a bias correction, which the paper leaves out."""

    rule = "ademamix"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        _, new = super().stepped(p, g, states, step, hyper)
        alpha = hyper.own["alpha"] / (1 - hyper.own["beta3"] ** step)
        return super().stepped(p, g, states, step, having(hyper, alpha=alpha))[0], new


@killed_by("optimizer_step_8bit/lion/float32/plain")
class SignOfTheNewMoment(OtherRule):
    """The direction is the sign of the stored moment, which decays with β₂."""

    rule = "lion"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        return super().stepped(p, g, states, step, having(hyper, beta1=hyper.own["beta2"]))


@killed_by("optimizer_step_8bit/lion/float32/decoupled-decay", ledger="D6")
class LionDecaysCoupled(OtherRule):
    """The decay goes into the gradient, where its sign is all that is left of it."""

    rule = "lion"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        return super().stepped(p, g, states, step, replace(hyper, decoupled=False))


@killed_by("optimizer_step_32bit/lion/float32/zero-gradient-first")
class SignOfZero(OtherRule):
    """The sign of zero is taken for one, so that weights without a gradient move."""

    rule = "lion"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        moved, new = super().stepped(p, g, states, step, hyper)
        return np.where((g == 0) & (states[0] == 0), moved - hyper.lr, moved), new


@killed_by("optimizer_step_8bit/lion/bfloat16/plain", ledger="D18")
class StepThroughBfloat16(OtherRule):
    """η sign(…) is kept in the type of the parameter before it is used."""

    rule = "lion"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        decay = hyper.weight_decay * hyper.lr
        rate = float(BFLOAT16.round(hyper.lr))
        rounded = replace(hyper, lr=rate, weight_decay=decay / rate if rate else 0.0)
        return super().stepped(p, g, states, step, rounded)


@killed_by("optimizer_step_32bit/lion/float32/nonfinite")
class SignOfNanIsZero(OtherRule):
    """A comparison with zero finds NaN neither positive nor negative, and nothing moves."""

    rule = "lion"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        moved, new = super().stepped(p, g, states, step, hyper)
        return np.where(np.isnan(moved), p, moved), new


@killed_by("optimizer_step_8bit/rmsprop/float32/coupled-decay", ledger="D5")
class RawGradientDivided(OtherRule):
    """The decay enters the squares, but what is divided by their root is the raw gradient."""

    rule = "rmsprop"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        moved, (v,) = super().stepped(p, g, states, step, hyper)
        if hyper.decoupled:
            return moved, (v,)
        raw = g / hyper.grad_scale * (-1 if hyper.maximize else 1)
        return p - hyper.lr * raw / (np.sqrt(v) + hyper.own["eps"]), (v,)


@killed_by("optimizer_step_32bit/rmsprop/float32/large-eps")
class EpsInsideTheRootOfSquares(OtherRule):
    """The root is taken of v + ε."""

    rule = "rmsprop"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        _, (v,) = super().stepped(p, g, states, step, hyper)
        shifted = (v + hyper.own["eps"] - (1 - hyper.own["alpha"]) * g**2) / hyper.own["alpha"]
        moved, _ = super().stepped(p, g, (shifted,), step, having(hyper, eps=0.0))
        return moved, (v,)


@killed_by("optimizer_step_32bit/rmsprop_momentum/float32/plain")
class RateInTheBuffer(OtherRule):
    """The momentum is one of steps, and not of quotients: it keeps the learning rate."""

    rule = "rmsprop_momentum"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        moved, (v, buf) = super().stepped(p, g, states, step, hyper)
        return moved, (v, hyper.lr * buf)


@killed_by("optimizer_step_8bit/rmsprop_centered/float32/plain")
class VarianceBelowZero(OtherRule):
    """v − mean² is not held at zero, where rounded states have made it negative."""

    rule = "rmsprop_centered"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        moved, (v, mean) = super().stepped(p, g, states, step, hyper)
        return np.where(v < mean**2, np.nan, moved), (v, mean)


@killed_by("optimizer_step_32bit/rmsprop_centered/float32/plain")
class MeanNotSubtracted(OtherRule):
    """The mean is kept, and not used."""

    rule = "rmsprop_centered"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        moved, (v,) = optimizer_step("rmsprop", p, g, states[:1], step, hyper)
        return moved, (v, super().stepped(p, g, states, step, hyper)[1][1])


@killed_by("optimizer_step_32bit/rmsprop_centered_momentum/float32/plain")
class MeanOfTheStepBefore(OtherRule):
    """What is subtracted is the square of the old mean."""

    rule = "rmsprop_centered_momentum"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        _, new = super().stepped(p, g, states, step, hyper)
        spread = np.maximum(new[0] - states[1] ** 2, 0.0)
        buf = hyper.own["momentum"] * states[2] + g / (np.sqrt(spread) + hyper.own["eps"])
        return p - hyper.lr * buf, (*new[:2], buf)


@killed_by("optimizer_step_8bit/adagrad/float32/lr-decay")
class RateDecayIgnored(OtherRule):
    """The argument is accepted and not used."""

    rule = "adagrad"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        return super().stepped(p, g, states, step, having(hyper, lr_decay=0.0))


@killed_by("optimizer_step_32bit/adagrad/float32/lr-decay")
class RateDecayedOnceMore(OtherRule):
    """The learning rate has decayed at the first step."""

    rule = "adagrad"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        return super().stepped(p, g, states, step + 1, hyper)
