"""Linear layers whose weight is stored in 4 bits."""

from __future__ import annotations

from typing import Self, TypedDict, Unpack

import torch
from torch import Tensor, nn

import kq_functional as kq
from kq_functional.linear import linear_4bit_parts
from kq_nn.format4bit import Format4bit, quant_state, stored_scales
from kq_nn.quantized import QuantizedLinear, check_dense


class QuantOptions(TypedDict, total=False):
    """How to quantize: keyword arguments of the layers' constructors, with the same defaults."""

    quant_type: str
    blocksize: int
    compress_statistics: bool


class Linear4bit(QuantizedLinear):
    """`y = x Wᵀ + b` with W stored in 4 bits and frozen.

    The layer computes in the dtype of its input (or of autocast) and is differentiable in the
    input and the bias. Quantizing is explicit (`from_linear`, `quantize_`): moving, casting,
    saving or loading the layer never changes a stored bit, and forward changes nothing at all.

    Its state is made of plain integer parameters that need no gradient, named in the state dict
    as here (nblk = ceil(in_features / blocksize)):

    * `weight` uint8 [out, ceil(in / 2)]: two codes a byte, the first in the high half;
    * `weight_absmax`: float32 bits as int32 [out, nblk], or, with double quantization, 8-bit
      codes as uint8 [out, nblk] together with `weight_nested_absmax`, float32 bits as int32
      [ceil(out * nblk / 256)], and `weight_offset`, float32 bits as int32 [1];
    * `weight_format` int32 [5]: what the above mean; compared when a state dict is loaded;
    * `bias`: an ordinary floating-point parameter [out], or None.

    A layer made by the constructor holds the zero weight.

    Args:
        in_features: K, size of each input row.
        out_features: N, size of each output row.
        bias: whether there is a bias.
        quant_type: "nf4" or "fp4".
        blocksize: elements that share a scale: a power of two from 32 to 4096.
        compress_statistics: double quantization: scales in 8 bits instead of 32.
        device: where the state lives; "meta" is allowed.
        dtype: dtype of the bias.

    Raises:
        ValueError, TypeError: for an argument that is out of range, naming it.
    """

    weight_nested_absmax: nn.Parameter
    weight_offset: nn.Parameter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        quant_type: str = "nf4",
        blocksize: int = 64,
        compress_statistics: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # nn.Linear.__init__ would allocate and initialize the dense weight.
        nn.Module.__init__(self)
        self.in_features = in_features
        self.out_features = out_features
        self.quant_type = quant_type
        self.blocksize = blocksize
        self.compress_statistics = compress_statistics
        self.layout.check()
        self._set_empty(bias, device, dtype)

    @classmethod
    def from_linear(cls, linear: nn.Linear, **options: Unpack[QuantOptions]) -> Self:
        """Quantizes a dense layer.

        Args:
            linear: a layer with a float32, bfloat16 or float16 weight. It is not changed. On
                the meta device the result is an empty layer of the right shapes.
            **options: quant_type, blocksize, compress_statistics, as in the constructor.

        Returns:
            A layer on the same device and in the same mode (train or eval) that shares the
            bias parameter of `linear`. Hooks are not taken over.

        Raises:
            TypeError: if `linear` is not an `nn.Linear`, already quantized, or of another dtype.
        """
        check_dense(linear)
        layer = cls(linear.in_features, linear.out_features, bias=False, device="meta", **options)
        return layer._take_over(linear)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in nn.Linear
        """Maps [..., in_features] to [..., out_features] in the dtype of `input`."""
        stored = self._stored
        return linear_4bit_parts(
            input,
            stored["weight"],
            stored_scales(stored, self.compress_statistics),
            self._bias_in(input.dtype),
            (self.out_features, self.in_features),
            self.blocksize,
            self.quant_type,
        )

    @property
    def quant_state(self) -> kq.QuantState:
        """The stored scales as kq_functional reads them: views, dtype float32."""
        return quant_state(self._stored, self.layout, torch.float32)

    def extra_repr(self) -> str:
        """Arguments that rebuild the layer, for `print(model)`."""
        return (
            f"{super().extra_repr()}, quant_type={self.quant_type}, blocksize={self.blocksize}, "
            f"compress_statistics={self.compress_statistics}"
        )

    @property
    def layout(self) -> Format4bit:
        """What the stored tensors mean."""
        return Format4bit(
            self.quant_type,
            self.blocksize,
            self.compress_statistics,
            self.out_features,
            self.in_features,
        )


class LinearNF4(Linear4bit):
    """`Linear4bit` with quant_type "nf4": quantiles of the normal distribution."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        blocksize: int = 64,
        compress_statistics: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            bias,
            quant_type="nf4",
            blocksize=blocksize,
            compress_statistics=compress_statistics,
            device=device,
            dtype=dtype,
        )


class LinearFP4(Linear4bit):
    """`Linear4bit` with quant_type "fp4": a 4-bit floating-point format."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        blocksize: int = 64,
        compress_statistics: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            bias,
            quant_type="fp4",
            blocksize=blocksize,
            compress_statistics=compress_statistics,
            device=device,
            dtype=dtype,
        )
