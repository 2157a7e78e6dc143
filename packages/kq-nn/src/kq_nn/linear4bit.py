"""Linear layers whose weight is stored in 4 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn

import kq_functional as kq
from kq_functional.linear import linear_4bit_parts
from kq_nn.format4bit import Format4bit, describe_header, pack, quant_state, stored_scales


class QuantOptions(TypedDict, total=False):
    """How to quantize: keyword arguments of the layers' constructors, with the same defaults."""

    quant_type: str
    blocksize: int
    compress_statistics: bool


class Linear4bit(nn.Linear):
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

    weight_absmax: nn.Parameter
    weight_nested_absmax: nn.Parameter
    weight_offset: nn.Parameter
    weight_format: nn.Parameter

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
        self._layout.check()
        for name, spec in self._layout.tensors.items():
            self._set_frozen(name, torch.empty(spec.shape, dtype=spec.dtype, device=device))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

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
        if not isinstance(linear, nn.Linear) or isinstance(linear, Linear4bit):
            raise TypeError(f"linear must be a dense nn.Linear, got {type(linear).__name__}")
        layer = cls(linear.in_features, linear.out_features, bias=False, device="meta", **options)
        layer.quantize_(linear.weight)
        layer.bias = linear.bias
        return layer.train(linear.training)

    @torch.no_grad()
    def quantize_(self, weight: Tensor) -> Self:
        """Replaces the stored weight by the quantization of `weight`, on the device of `weight`.

        Args:
            weight: float32, bfloat16 or float16, [out_features, in_features].
        """
        for name, tensor in self.pack(weight).items():
            self._set_frozen(name, tensor)
        return self

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """The state that `quantize_(weight)` would set, by state-dict name; changes nothing."""
        return pack(weight, self._layout)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Sets the zero weight and a zero bias; makes a layer from `to_empty()` valid."""
        for name in self._layout.tensors:
            getattr(self, name).zero_()
        if not self.weight_format.is_meta:
            self.weight_format.copy_(torch.tensor(self._layout.header))
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in nn.Linear
        """Maps [..., in_features] to [..., out_features] in the dtype of `input`."""
        stored = self._stored
        # A parametrized bias is not stored under its name; asking for it is slow otherwise.
        bias = stored["bias"] if "bias" in stored else self.bias  # noqa: SIM401
        if bias is not None and bias.dtype != input.dtype:
            bias = bias.to(input.dtype)
        return linear_4bit_parts(
            input,
            stored["weight"],
            stored_scales(stored, self.compress_statistics),
            bias,
            (self.out_features, self.in_features),
            self.blocksize,
            self.quant_type,
        )

    @property
    def quant_state(self) -> kq.QuantState:
        """The stored scales as kq_functional reads them: views, dtype float32."""
        return self._quant_state(torch.float32)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight that the layer multiplies with: a new tensor [out_features, in_features].

        Args:
            dtype: float32 (exact), bfloat16 or float16 (rounded once from float32).
        """
        return kq.dequantize_4bit(self.weight, self._quant_state(dtype))

    @property
    def W_q(self) -> Tensor:
        """The packed weight, under the name by which PEFT knows a layer with `dequantize()`."""
        return self.weight

    def check_state(self) -> None:
        """Checks dtypes, shapes and format of the state, as loading a state dict does.

        For loaders that set parameters one by one. Values on the meta device are not looked at.

        Raises:
            RuntimeError: describing every mismatch.
        """
        problems = self._mismatches(self._stored)
        if problems:
            raise RuntimeError("; ".join(problems))

    def extra_repr(self) -> str:
        """Arguments that rebuild the layer, for `print(model)`."""
        return (
            f"{super().extra_repr()}, quant_type={self.quant_type}, blocksize={self.blocksize}, "
            f"compress_statistics={self.compress_statistics}"
        )

    @property
    def _layout(self) -> Format4bit:
        return Format4bit(
            self.quant_type,
            self.blocksize,
            self.compress_statistics,
            self.out_features,
            self.in_features,
        )

    @property
    def _stored(self) -> Mapping[str, Tensor]:
        # module attributes, but found at a tenth of the cost: this is read by every forward
        return self._parameters  # type: ignore[return-value]

    def _set_frozen(self, name: str, tensor: Tensor) -> None:
        setattr(self, name, nn.Parameter(tensor, requires_grad=False))

    def _quant_state(self, dtype: torch.dtype) -> kq.QuantState:
        return quant_state(self._stored, self._layout, dtype)

    def _mismatches(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """What is wrong with stored tensors that this layer is asked to take over."""
        problems = []
        for name, spec in self._layout.tensors.items():
            if name not in tensors:
                problems.append(f"{name} is missing")
                continue
            tensor = tensors[name]
            if tuple(tensor.shape) != spec.shape or tensor.dtype != spec.dtype:
                problems.append(
                    f"{name} must be {spec.dtype} {list(spec.shape)}, "
                    f"got {tensor.dtype} {list(tensor.shape)}"
                )
        stored = tensors.get("weight_format")
        if stored is not None and not stored.is_meta:
            full = stored.full_tensor() if hasattr(stored, "full_tensor") else stored  # DTensor
            header = tuple(int(value) for value in full.flatten().tolist())
            if header != self._layout.header:
                problems.insert(
                    0,
                    f"weight_format says {describe_header(header)}, "
                    f"the layer expects {describe_header(self._layout.header)}",
                )
        return problems

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Loads all of the weight's tensors or none.

        torch would copy whatever fits, converting values between dtypes: codes next to foreign
        scales decode to garbage, silently when `strict` is False.
        """
        found = {
            name: state_dict[prefix + name]
            for name in self._layout.tensors
            if prefix + name in state_dict
        }
        problems = self._mismatches(found) if found else []
        if problems:
            error_msgs.append(f"4-bit weight {prefix.rstrip('.')!r}: " + "; ".join(problems))
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
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
