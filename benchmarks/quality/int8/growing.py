"""Outliers that grow: the claim of LLM.int8() (Dettmers et al., arXiv 2208.07339) in small.

One product of random matrices, in which a few columns of the input are scaled up. A single large
element takes all the codes of its row for itself, and what the ordinary elements say is lost;
multiplied apart, it takes none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.quality.int8.contenders import THRESHOLD
from kq_nn import Linear8bitLt

FACTORS = (1, 2, 5, 10, 20, 50, 100)
_ROWS, _WIDTH, _OUTLIERS = 128, 1024, 6


@dataclass(frozen=True)
class Error:
    """Errors of the product, relative to what its ordinary columns contribute.

    Attributes:
        factor: by which the outlier columns are scaled.
        whole: int8 rows without decomposition.
        decomposed: with the threshold.
        kept: with it, and with what rounding took from the outlier columns of the weight.
    """

    factor: int
    whole: float
    decomposed: float
    kept: float


def errors(seeds: int) -> list[Error]:
    """The errors for each factor, means over seeds (root mean square)."""
    return [_error(factor, seeds) for factor in FACTORS]


@torch.no_grad()
def _error(factor: int, seeds: int) -> Error:
    squares = torch.zeros(3, dtype=torch.float64)
    for seed in range(seeds):
        torch.manual_seed(seed)
        weight = torch.randn(_WIDTH, _WIDTH)
        x = torch.randn(_ROWS, _WIDTH)
        columns = torch.randperm(_WIDTH)[:_OUTLIERS]
        ordinary = x.double()
        ordinary[:, columns] = 0
        x[:, columns] *= factor
        exact = x.double() @ weight.double().T
        size = (ordinary @ weight.double().T).norm()
        linear = nn.Linear(_WIDTH, _WIDTH, bias=False)
        linear.weight.copy_(weight)
        layers = (
            Linear8bitLt.from_linear(linear),
            Linear8bitLt.from_linear(linear, threshold=THRESHOLD),
            Linear8bitLt.from_linear(linear, threshold=THRESHOLD, kept_columns=columns),
        )
        squares += torch.stack(
            [((layer(x).double() - exact).norm() / size) ** 2 for layer in layers]
        )
    return Error(factor, *(squares / seeds).sqrt().tolist())
