"""QuantState: the immutable record of how codes map to values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .backends.base import Scales
from .formats import NESTED_BLOCKSIZE, check_blocksize, check_layout, check_quant_type


@dataclass(frozen=True, eq=False)
class QuantState:
    """How the codes of one tensor map to values. Compared by identity.

    Attributes:
        absmax: One scale a block: float32, or uint8 codes if double quantized.
        shape: Shape of the unquantized tensor.
        dtype: Dtype of the unquantized tensor, and of what decoding returns.
        blocksize: Elements in a block.
        quant_type: "nf4", "fp4", or None for 8-bit codes.
        code: The codebook, float32 [16] or [256].
        layout: "row" (blocks do not cross rows) or "flat".
        offset: With double quantization, the mean of the scales: float32, one element.
        state2: With double quantization, how the codes in `absmax` map to scale − offset.

    Raises:
        TypeError, ValueError: A field is out of range, or only one of offset and state2 is given.
    """

    absmax: Tensor
    shape: torch.Size
    dtype: torch.dtype
    blocksize: int
    quant_type: str | None
    code: Tensor
    layout: str = "row"
    offset: Tensor | None = None
    state2: QuantState | None = None

    def __post_init__(self) -> None:
        if self.quant_type is not None:
            check_quant_type(self.quant_type)
        check_blocksize(self.blocksize, four_bit=self.quant_type is not None)
        check_layout(self.layout)
        if (self.offset is None) != (self.state2 is None):
            raise ValueError("offset and state2 must be given together: both, or neither")
        if self.state2 is not None and self.state2.blocksize != NESTED_BLOCKSIZE:
            raise ValueError(
                f"state2.blocksize must be {NESTED_BLOCKSIZE}, got {self.state2.blocksize}"
            )

    @property
    def nested(self) -> bool:
        """Whether the scales are themselves quantized (double quantization)."""
        return self.state2 is not None

    @property
    def scales(self) -> Scales:
        """The scales as backends take them."""
        if self.state2 is None:
            return Scales(self.absmax)
        return Scales(self.absmax, self.state2.absmax, self.state2.code, self.offset)

    def to(self, device: torch.device | str) -> QuantState:
        """Return this state with its tensors on `device`; nothing is changed in place."""
        return replace(
            self,
            absmax=self.absmax.to(device),
            code=self.code.to(device),
            offset=None if self.offset is None else self.offset.to(device),
            state2=None if self.state2 is None else self.state2.to(device),
        )
