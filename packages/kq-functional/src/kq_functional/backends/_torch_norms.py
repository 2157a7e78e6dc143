"""Norms over a whole parameter: the same bits for any number of threads, on any device."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import pad

from ._torch_codes import encoding_device

CHUNK = 1 << 16
"""Elements whose squares are summed together; the sums are added in order."""


class Norm:
    """The 2-norm of a float32 vector that comes in parts of whole chunks, the last may be short."""

    def __init__(self) -> None:
        self._sum = 0.0

    def add(self, x: Tensor) -> None:
        """Go on with the next part."""
        squares = x.to(encoding_device(x.device)).double().square_()
        # Halves are added rather than `sum` called: it may cut a long sum as threads come.
        width = min(CHUNK, 1 << max(x.numel() - 1, 0).bit_length())
        sums = pad(squares, (0, -x.numel() % width)).view(-1, width)
        while width > 1:
            width //= 2
            sums = sums[:, :width] + sums[:, width:]
        for partial in sums.flatten().tolist():
            self._sum += partial

    @property
    def value(self) -> float:
        """The norm of all parts so far."""
        return math.sqrt(self._sum)
