"""The linear layer of LLM.int8()."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Self

import torch
from torch import Tensor, nn

import kq_functional as kq
from kq_functional.int8_format import check_threshold
from kq_nn.format8bit import FloatWeight, Format8bit, kept, stored, stored_kept
from kq_nn.kept import Columns, check_columns
from kq_nn.quantized import QuantizedLinear, check_dense
from kq_nn.stored import whole


class Linear8bitLt(QuantizedLinear):
    """`y = x Wᵀ + b` with W in int8, one scale a row, and x quantized row by row in each call.

    The columns of x in which an element reaches `threshold` are multiplied unquantized, with those
    of the decoded weight (LLM.int8(), Dettmers et al., arXiv 2208.07339). The layer computes in
    the dtype of its input (or of autocast) and is differentiable in the input and the bias.

    Its state is made of plain integer parameters that need no gradient, named in the state dict
    as here:

    * `weight` int8 [out, in, 1]: the codes. The third dimension keeps programs that do not know
      the format from taking them for a dense weight;
    * `weight_absmax` int32 [out]: the bits of the float32 scales, the largest magnitude of a row;
    * `weight_format` int32 [5]: what the above mean; compared when a state dict is loaded;
    * `weight_kept` int16 [out, J] and `weight_kept_columns` int32 [J], only with kept columns: the
      bits in bfloat16 of what rounding took from J columns of the weight, and their indices;
    * `bias`: an ordinary floating-point parameter [out], or None.

    Kept columns are for input features that are known to hold outliers (`kq outliers` finds
    them): for these the layer adds the product of x, unquantized, and what rounding took from the
    weight, in the compute dtype and in every call, whatever x holds. They cost 2 J bytes a row
    beside the K of the codes, and one more product with J columns.

    With `has_fp16_weights`, the weight is an ordinary floating-point parameter [out, in] that
    learns; it is quantized in each forward. `from_linear` of such a layer freezes it in int8.

    A layer made by the constructor holds the zero weight and keeps the first columns, or with
    `has_fp16_weights` has the first values of `nn.Linear`.

    Args:
        in_features: K, size of each input row.
        out_features: N, size of each output row.
        bias: whether there is a bias.
        has_fp16_weights: whether to keep the weight in floating point and train it.
        threshold: magnitude from which elements of x are outliers; 0: none is. 6.0 is customary
            for language models. It is no part of the state and may be changed.
        device: where the state lives; "meta" is allowed.
        dtype: dtype of the bias, and of a floating-point weight.
        kept_columns: J, for how many columns of the weight what rounding took is kept.

    Raises:
        ValueError, TypeError: for an argument that is out of range, naming it.
    """

    weight_kept: nn.Parameter
    weight_kept_columns: nn.Parameter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        has_fp16_weights: bool = False,
        threshold: float = 0.0,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        kept_columns: int = 0,
    ) -> None:
        # nn.Linear.__init__ would allocate and initialize the dense weight.
        nn.Module.__init__(self)
        if not isinstance(has_fp16_weights, bool):
            raise TypeError(f"has_fp16_weights must be a bool, got {has_fp16_weights!r}")
        check_threshold(threshold)
        self.in_features = in_features
        self.out_features = out_features
        self.has_fp16_weights = has_fp16_weights
        self.threshold = threshold
        self.kept_columns = kept_columns
        Format8bit(out_features, in_features, kept_columns).check()
        if has_fp16_weights:
            if kept_columns:
                raise ValueError("kept_columns are of an int8 weight: not with has_fp16_weights")
            shape = (out_features, in_features)
            self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self._set_empty(bias, device, dtype)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        has_fp16_weights: bool = False,
        threshold: float = 0.0,
        kept_columns: Columns | None = None,
    ) -> Self:
        """Quantizes a dense layer.

        Args:
            linear: a layer with a float32, bfloat16 or float16 weight, also a `Linear8bitLt` with
                `has_fp16_weights`. It is not changed. On the meta device the result is an empty
                layer of the right shapes.
            has_fp16_weights: share the floating-point weight of `linear` instead.
            threshold: as in the constructor.
            kept_columns: indices of the columns for which what rounding takes is kept: distinct
                integers, as a sequence or a tensor [J]. They are stored in ascending order.

        Returns:
            A layer on the same device and in the same mode (train or eval) that shares the
            bias parameter of `linear`. Hooks are not taken over.

        Raises:
            TypeError: if `linear` is not an `nn.Linear`, already quantized, or of another dtype,
                or `kept_columns` does not hold integers.
            ValueError: if `kept_columns` are out of range, not distinct, or given together with
                `has_fp16_weights`.
        """
        check_dense(linear)
        columns = check_columns(() if kept_columns is None else kept_columns, linear.in_features)
        layer = cls(
            linear.in_features,
            linear.out_features,
            bias=False,
            has_fp16_weights=has_fp16_weights,
            threshold=threshold,
            device="meta",
            kept_columns=len(columns),
        )
        if has_fp16_weights:
            layer.weight = linear.weight
            layer.bias = linear.bias
            layer.pack(layer.weight)  # refuses another dtype
            return layer.train(linear.training)
        if columns:
            indices = torch.tensor(columns, dtype=torch.int32, device=linear.weight.device)
            layer._set_frozen("weight_kept_columns", indices)
        return layer._take_over(linear)

    @classmethod
    def from_parts(
        cls, weight: Tensor, absmax: Tensor, bias: Tensor | None = None, *, threshold: float = 0.0
    ) -> Self:
        """Makes a layer of a weight that is quantized already, without copying it.

        Args:
            weight: int8 [out, in], codes from -127 to 127.
            absmax: float32 [out], the largest magnitude of each row (`SCB` in bitsandbytes).
            bias: [out], or None.
            threshold: as in the constructor.

        Raises:
            TypeError, ValueError: if a tensor is of another dtype or shape.
        """
        for name, tensor, dtype, dims in (
            ("weight", weight, torch.int8, 2),
            ("absmax", absmax, torch.float32, 1),
        ):
            if tensor.dtype != dtype:
                raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}")
            if tensor.ndim != dims:
                raise ValueError(f"{name} must have {dims} dimensions, got {list(tensor.shape)}")
        for name, vector in (("absmax", absmax), ("bias", bias)):
            if vector is not None and vector.shape != weight.shape[:1]:
                raise ValueError(
                    f"{name} must have shape [{len(weight)}], got {list(vector.shape)}"
                )
        out_features, in_features = weight.shape
        layer = cls(in_features, out_features, bias=False, threshold=threshold, device="meta")
        parts = stored(weight.detach(), absmax.detach())
        parts["weight_format"] = torch.tensor(
            layer.layout.header, dtype=torch.int32, device=weight.device
        )
        for name, tensor in parts.items():
            layer._set_frozen(name, tensor)
        if bias is not None:
            layer.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias)
        return layer

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Sets what a new layer holds; makes a layer from `to_empty()` valid."""
        if self.has_fp16_weights:
            nn.Linear.reset_parameters(self)
        else:
            super().reset_parameters()
            if self.kept_columns:
                # Zeros would be the same column many times, each adding what rounding takes.
                columns = self.weight_kept_columns
                columns.copy_(torch.arange(len(columns), device=columns.device))

    @torch.no_grad()
    def quantize_(self, weight: Tensor) -> Self:
        """Replaces the stored weight by the quantization of `weight`, on the device of `weight`.

        With `has_fp16_weights`, `weight` is copied, not quantized, into the weight.

        Args:
            weight: float32, bfloat16 or float16, [out_features, in_features].
        """
        if not self.has_fp16_weights:
            return super().quantize_(weight)
        self.weight.copy_(self.pack(weight)["weight"])
        return self

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """The state that `quantize_(weight)` would set, for the columns that are kept now.

        Raises:
            RuntimeError: if they are on the meta device, hence unknown, and `weight` is not.
        """
        tensors = super().pack(weight)
        if not self.kept_columns or weight.is_meta:
            return tensors
        if self.weight_kept_columns.is_meta:
            raise RuntimeError("which columns to keep is not known yet: the layer is empty")
        columns = self.weight_kept_columns.detach().to(weight.device)
        codes, absmax = tensors["weight"].squeeze(-1), tensors["weight_absmax"].view(torch.float32)
        return {
            **tensors,
            **stored_kept(kq.int8_kept_columns(weight.detach(), columns, codes, absmax)),
        }

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in nn.Linear
        """Maps [..., in_features] to [..., out_features] in the dtype of `input`."""
        bias = self._bias_in(input.dtype)
        if self.has_fp16_weights:
            return kq.int8_linear_training(input, self.weight, bias, self.threshold)
        stored = self._stored
        return kq.int8_linear(
            input,
            stored["weight"].squeeze(-1),
            stored["weight_absmax"],
            bias,
            self.threshold,
            kept(stored) if self.kept_columns else None,
        )

    def _mismatches(self, tensors: Mapping[str, Tensor]) -> list[str]:
        problems = super()._mismatches(tensors)
        columns = tensors.get("weight_kept_columns")
        if not problems and columns is not None and not columns.is_meta:
            try:
                check_columns(whole(columns), self.in_features)
            except ValueError as error:
                problems.append(f"weight_kept_columns cannot be read: {error}")
        return problems

    @property
    def state(self) -> SimpleNamespace:
        """Nothing that is kept, for accelerate.

        After each forward of an offloaded layer it clears attributes of `state` where the class
        has this name, which it takes for that of bitsandbytes.
        """
        return SimpleNamespace()

    def extra_repr(self) -> str:
        """Arguments that rebuild the layer, for `print(model)`."""
        kept = f", kept_columns={self.kept_columns}" if self.kept_columns else ""
        return (
            f"{super().extra_repr()}, has_fp16_weights={self.has_fp16_weights}, "
            f"threshold={self.threshold}{kept}"
        )

    @property
    def layout(self) -> Format8bit | FloatWeight:
        """What the stored tensors mean."""
        if self.has_fp16_weights:
            return FloatWeight(self.out_features, self.in_features, self.weight.dtype)
        return Format8bit(self.out_features, self.in_features, self.kept_columns)
