"""Dense products whose result does not depend on the number of threads."""

from __future__ import annotations

import torch
from torch import Tensor


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Write x @ weight + bias to `out`: x [M, K], weight [K, N], bias [N], out [M, N]."""
    single = x.shape[0] == 1 and x.device.type == "cpu"
    # A single row would go to a matrix-vector product, which shares out its sums to threads.
    rows = x.expand(2, -1) if single else x
    result = rows.new_empty(2, out.shape[1]) if single else out
    if bias is None:
        torch.mm(rows, weight, out=result)
    else:
        torch.addmm(bias, rows, weight, out=result)
    if single:
        out.copy_(result[:1])
