"""Dense products, with what torch offers.

On a CPU the bits of torch.mm depend on the number of threads for some shapes, about a third of
those tried in float32 (x [20, 1000] with W [130, 1000], 1 against 2 threads), and a process-wide
setting is all that would change it. For a single row they always would; that is avoided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype for products whose bits must not depend on threads: float64 on a CPU.

    There the float64 sums differ by far less than float32 can tell. Elsewhere float64 is slow or
    missing, and float32 has no such fault.
    """
    return torch.float64 if device.type == "cpu" else torch.float32


def is_host(device: torch.device) -> bool:
    """Whether values of its tensors can be looked at without a wait, to choose what to compute."""
    return device.type == "cpu"


def segments(counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Yield (index, rows) for each group that has rows; the groups lie one after the other."""
    start = 0
    for index, count in enumerate(counts):
        if count:
            yield index, slice(start, start + count)
        start += count
