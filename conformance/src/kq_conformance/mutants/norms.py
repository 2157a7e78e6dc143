"""Mistakes with norms over a whole parameter: LAMB, LARS, and the bounds of bitsandbytes."""

from dataclasses import replace

import numpy as np

from kq_conformance.floats import FLOAT32, Float64
from kq_conformance.mutants.mutant import States, Stepped, killed_by
from kq_conformance.mutants.rules import OtherRule, having
from kq_conformance.reference import Hyper, optimizer_step

__all__: list[str] = []

_CHUNK = 1 << 16


class _Scaled(OtherRule):
    """No mistake: the length of LAMB's step can be another one."""

    rule = "lamb"

    def length(self, u: Float64) -> float:
        """The norm of the update."""
        return float(np.sqrt(np.sum(u**2)))

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        moved, new = super().stepped(p, g, states, step, hyper)
        # The step is (‖p‖/‖u‖) u, whatever the length of what is put in for u.
        u, true = p - moved, float(np.sqrt(np.sum((p - moved) ** 2)))
        if true == 0 or not np.isfinite(true):
            return moved, new
        return p - u * true / self.length(u), new


@killed_by("optimizer_step_32bit/lamb/float32/large")
class NormOfTheFirstChunk(_Scaled):
    """Partial sums of the norm are kept for each chunk, and only the first is used."""

    def length(self, u: Float64) -> float:
        return super().length(u[:_CHUNK])


@killed_by("optimizer_step_32bit/lamb/float32/large")
class NormInFloat32(_Scaled):
    """The squares are added up in float32, one after the other."""

    def length(self, u: Float64) -> float:
        return float(np.sqrt(np.cumsum((u**2).astype(np.float32), dtype=np.float32)[-1]))


@killed_by("optimizer_step_8bit/lamb/float32/plain")
class NormOfEachBlock(_Scaled):
    """The trust ratio is that of a block of 256 elements."""

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        blocks = [slice(i, i + 256) for i in range(0, p.size, 256)]
        if len(blocks) < 2:
            return super().stepped(p, g, states, step, hyper)
        parts = [
            super(NormOfEachBlock, self).stepped(
                p[each], g[each], tuple(state[each] for state in states), step, hyper
            )
            for each in blocks
        ]
        new = tuple(np.concatenate(state) for state in zip(*(s for _, s in parts), strict=True))
        return np.concatenate([moved for moved, _ in parts]), new


@killed_by("optimizer_step_32bit/lamb/float32/decoupled-decay")
class DecayOutsideTheTrust(OtherRule):
    """A decoupled decay shrinks the parameter beside the step, as in AdamW."""

    rule = "lamb"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        if not hyper.decoupled:
            return super().stepped(p, g, states, step, hyper)
        raw = replace(hyper, weight_decay=0.0)
        moved, new = super().stepped(p, g, states, step, raw)
        return moved - hyper.lr * hyper.weight_decay * p, new


@killed_by("optimizer_step_8bit/lamb/float32/uncorrected")
class AlwaysCorrected(OtherRule):
    """The switch for the bias corrections is accepted and not used."""

    rule = "lamb"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        return super().stepped(p, g, states, step, having(hyper, bias_correction=1.0))


@killed_by("optimizer_step_8bit/lamb/float32/no-parameter")
class NoTrustInZero(OtherRule):
    """A parameter of zeros has the trust ratio 0, and never moves."""

    rule = "lamb"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        moved, new = super().stepped(p, g, states, step, hyper)
        return (moved if p.any() else p), new


@killed_by("optimizer_step_32bit/lamb_clipped/float32/first-step", ledger="D16")
class NormWithoutCorrections(OtherRule):
    """The norm of the update lacks the factor c₂/c₁: 0.316 at the first step."""

    rule = "lamb_clipped"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        own = hyper.own
        factor = np.sqrt(1 - own["beta2"] ** step) / (1 - own["beta1"] ** step)
        moved, new = super().stepped(p, g, states, step, having(hyper, max_unorm=1e30))
        kept = p * (1 - hyper.lr * hyper.weight_decay) if hyper.decoupled else p
        r = (kept - moved) / hyper.lr if hyper.lr else np.zeros_like(p)
        size, length = np.sqrt(np.sum(p**2)), np.sqrt(np.sum((r / factor) ** 2))
        shortened = np.minimum(1.0, own["max_unorm"] * size / length) if length else 1.0
        return kept - hyper.lr * shortened * r, new


@killed_by("optimizer_step_8bit/lamb_clipped/float32/bounded")
class BoundIgnored(OtherRule):
    """States of 8 bits accept max_unorm, and do not use it."""

    rule = "lamb_clipped"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        return optimizer_step(
            "adam", p, g, states, step, replace(hyper, own={**hyper.own, "max_unorm": 0.0})
        )


@killed_by("optimizer_step_32bit/lars/float32/coupled-decay")
class DecayMissesTheNorm(OtherRule):
    """The trust ratio is that of the gradient alone, without λ‖p‖."""

    rule = "lars"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        missing = hyper.weight_decay * float(np.sqrt(np.sum(p**2)))
        shifted = having(hyper, eps=hyper.own["eps"] - missing)
        return super().stepped(p, g, states, step, shifted)


@killed_by("optimizer_step_8bit/lars/float32/still-decay")
class DecayNeedsAGradient(OtherRule):
    """A parameter whose gradient is zero is left alone, and so does not decay."""

    rule = "lars"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        raw = hyper if g.any() else replace(hyper, weight_decay=0.0)
        return super().stepped(p, g, states, step, raw)


@killed_by("optimizer_step_8bit/lars_clipped/float32/bounded")
class BoundOfTheGradient(OtherRule):
    """What is compared with max_unorm ‖p‖ is the gradient, and not the update."""

    rule = "lars_clipped"

    def stepped(self, p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> Stepped:
        moved, new = optimizer_step("momentum", p, g, states, step, hyper)
        size, length = (FLOAT32.round(np.sqrt(np.sum(each**2))) for each in (p, g))
        short = np.minimum(1.0, hyper.own["max_unorm"] * size / length) if length else 1.0
        return p + short * (moved - p), new
