"""Rules with a first and a second moment: Adam and its kin."""

import math
from collections.abc import Mapping

import numpy as np

from kq_conformance.floats import Float64
from kq_conformance.reference.optimizer.hyper import Hyper, prepared
from kq_conformance.reference.optimizer.momentum import shortened
from kq_conformance.reference.optimizer.states import States, decayed, norm

__all__ = ["adam", "ademamix", "ademamix_factors", "amsgrad", "lamb", "lamb_clipped"]


def _moments(m: Float64, v: Float64, g: Float64, hyper: Hyper) -> tuple[Float64, Float64]:
    """The moments m ← β₁m + (1−β₁)g and v ← β₂v + (1−β₂)g²."""
    return decayed(m, g, hyper.own["beta1"]), decayed(v, g**2, hyper.own["beta2"])


def _ratio(m: Float64, v: Float64, step: int, hyper: Hyper) -> Float64:
    """m̂ / (√v̂ + ε) with m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ)."""
    own = hyper.own
    m_hat, v_hat = m / (1 - own["beta1"] ** step), v / (1 - own["beta2"] ** step)
    ratio: Float64 = m_hat / (np.sqrt(v_hat) + own["eps"])
    return ratio


def adam(p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> tuple[Float64, States]:
    """Step by η m̂ / (√v̂ + ε); AdamW if the decay is decoupled.

    Source: Adam (arXiv:1412.6980), algorithm 1; AdamW (arXiv:1711.05101), algorithm 2.
    """
    p, g = prepared(p, g, hyper)
    m, v = _moments(states[0], states[1], g, hyper)
    return p - hyper.lr * _ratio(m, v, step, hyper), (m, v)


def amsgrad(
    p: Float64, g: Float64, states: States, step: int, hyper: Hyper
) -> tuple[Float64, States]:
    """As `adam` with the root of the largest v so far.

    Source: "On the Convergence of Adam and Beyond" (OpenReview ryQu7f-RZ), algorithm 2, with the
    bias corrections of torch.optim.Adam(amsgrad=True).
    """
    p, g = prepared(p, g, hyper)
    m, v = _moments(states[0], states[1], g, hyper)
    largest = np.maximum(states[2], v)
    return p - hyper.lr * _ratio(m, largest, step, hyper), (m, v, largest)


def ademamix_factors(step: int, own: Mapping[str, float]) -> tuple[float, float]:
    """αₜ and β₃ₜ: the share and the decay of the slow moment, as they warm up.

    αₜ = min(tα/T_α, α);  β₃ₜ = min(exp(ln β₁ ln β₃ / ((1 − t/T) ln β₃ + (t/T) ln β₁)), β₃) with T
    the steps that β₃ takes; a number of steps that is 0 stands for no warm-up.
    Source: AdEMAMix (arXiv:2409.03137), section 3 and appendix A.1.
    """
    alpha, beta3 = own["alpha"], own["beta3"]
    if own["t_alpha"]:
        alpha = min(step * alpha / own["t_alpha"], alpha)
    if own["t_beta3"]:
        part = step / own["t_beta3"]
        start, end = math.log(own["beta1"]), math.log(beta3)
        beta3 = min(math.exp(start * end / ((1 - part) * end + part * start)), beta3)
    return alpha, beta3


def ademamix(
    p: Float64, g: Float64, states: States, step: int, hyper: Hyper
) -> tuple[Float64, States]:
    """Step by η (m₁/(1−β₁ᵗ) + αₜm₂) / (√v̂ + ε), m₂ ← β₃ₜm₂ + (1−β₃ₜ)g, never corrected.

    Source: AdEMAMix (arXiv:2409.03137), algorithm 1.
    """
    own = hyper.own
    alpha, beta3 = ademamix_factors(step, own)
    p, g = prepared(p, g, hyper)
    fast, v = _moments(states[0], states[2], g, hyper)
    slow = decayed(states[1], g, beta3)
    mixed = fast / (1 - own["beta1"] ** step) + alpha * slow
    v_hat = v / (1 - own["beta2"] ** step)
    return p - hyper.lr * mixed / (np.sqrt(v_hat) + own["eps"]), (fast, slow, v)


def lamb(p: Float64, g: Float64, states: States, step: int, hyper: Hyper) -> tuple[Float64, States]:
    """Step by η (‖p‖/‖u‖) u with u = m̂ / (√v̂ + ε) + λp; the quotient is 1 if a norm is 0.

    A decay that is coupled has grown the gradient instead. Source: LAMB (arXiv:1904.00962),
    algorithm 2 with φ(x) = x; v3 of the paper leaves the bias corrections out.
    """
    own = hyper.own
    _, g = prepared(p, g, hyper)
    m, v = _moments(states[0], states[1], g, hyper)
    corrected = own["bias_correction"]
    u = _ratio(m, v, step, hyper) if corrected else m / (np.sqrt(v) + own["eps"])
    if hyper.decoupled and hyper.weight_decay:
        u = u + hyper.weight_decay * p
    size, length = norm(p), norm(u)
    trust = np.float64(1) if size == 0 or length == 0 else size / length
    return p - hyper.lr * trust * u, (m, v)


def lamb_clipped(
    p: Float64, g: Float64, states: States, step: int, hyper: Hyper
) -> tuple[Float64, States]:
    """As `adam`, with m̂ / (√v̂ + ε) no longer than max_unorm ‖p‖.

    Source: bitsandbytes' LAMB, with the bias corrections in the norm, too.
    """
    size = norm(p)
    p, g = prepared(p, g, hyper)
    m, v = _moments(states[0], states[1], g, hyper)
    r = _ratio(m, v, step, hyper)
    return p - hyper.lr * shortened(r, size, hyper) * r, (m, v)
