"""The linear layer with 4-bit weights and its gradient with respect to the input."""

import numpy as np

from kq_conformance.floats import Float64

__all__ = ["linear", "linear_backward"]


def linear(x: Float64, weight: Float64, bias: Float64 | None = None) -> Float64:
    """Multiply and add: y = x Wᵀ + b, with W the dequantized weight (`weights_4bit`), unrounded.

    y[m, n] = Σ_k x[m, k] · W[n, k] + b[n], in float64: its own error, about K · 2**-53 · Σ|x||w|,
    is 2**-29 of the float32 error that the bounds allow. Source: QLoRA (arXiv:2305.14314), equation
    5 without the adapter term.

    Args:
        x: float64 [M, K].
        weight: float64 [N, K].
        bias: float64 [N] or None.

    Returns:
        float64 [M, N].
    """
    with np.errstate(invalid="ignore"):  # NaN and Inf mean what arithmetic makes of them
        y = x @ weight.T
    return y if bias is None else y + bias


def linear_backward(grad: Float64, weight: Float64) -> Float64:
    """∂L/∂x = G W: grad_x[m, k] = Σ_n G[m, n] · W[n, k], from L = Σ G ∘ (x Wᵀ + b).

    Args:
        grad: float64 [M, N], the gradient with respect to y.
        weight: float64 [N, K].

    Returns:
        float64 [M, K].
    """
    with np.errstate(invalid="ignore"):
        return grad @ weight
