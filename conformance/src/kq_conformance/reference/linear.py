"""The linear layer with 4-bit weights and its gradient with respect to the input.

The grouped form is that of a mixture of experts: rows sorted by expert, a weight for each of them.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from kq_conformance.floats import Float64

__all__ = ["groups", "linear", "linear_backward", "linear_grouped", "linear_grouped_backward"]


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


def groups(counts: Sequence[int]) -> Iterator[slice]:
    """The rows of each expert: first counts[0] of them, then counts[1], and so on."""
    start = 0
    for count in counts:
        yield slice(start, start + count)
        start += count


def linear_grouped(
    x: Float64, weights: Float64, counts: Sequence[int], bias: Float64 | None = None
) -> Float64:
    """Apply `linear` to the rows of each expert, with the expert's weight.

    Args:
        x: float64 [T, K].
        weights: float64 [E, N, K].
        counts: rows of each of the E experts; they add up to T.
        bias: float64 [E, N] or None.

    Returns:
        float64 [T, N].
    """
    y = np.empty((x.shape[0], weights.shape[1]))
    for expert, rows in enumerate(groups(counts)):
        y[rows] = linear(x[rows], weights[expert], None if bias is None else bias[expert])
    return y


def linear_grouped_backward(grad: Float64, weights: Float64, counts: Sequence[int]) -> Float64:
    """Apply `linear_backward` to the rows of each expert, with the expert's weight.

    Args:
        grad: float64 [T, N].
        weights: float64 [E, N, K].
        counts: rows of each of the E experts; they add up to T.

    Returns:
        float64 [T, K].
    """
    grad_x = np.empty((grad.shape[0], weights.shape[2]))
    for expert, rows in enumerate(groups(counts)):
        grad_x[rows] = linear_backward(grad[rows], weights[expert])
    return grad_x
