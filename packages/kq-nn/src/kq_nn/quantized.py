"""What all quantized linear layers have in common: their state, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeGuard

import torch
from torch import Tensor, nn

from kq_nn.stored import STORED_NAMES, Layout, mismatches, pack


class QuantizedLinear(nn.Linear):
    """`y = x Wᵀ + b` with W stored as plain integer parameters that need no gradient.

    The base of `Linear4bit` and `Linear8bitLt`, which add a `layout` and a `forward`. Quantizing
    is explicit (`from_linear`, `quantize_`): moving, casting, saving or loading a layer never
    changes a stored bit, and forward changes nothing at all.
    """

    weight_absmax: nn.Parameter
    weight_format: nn.Parameter

    @property
    def layout(self) -> Layout:
        """What the stored tensors mean."""
        raise NotImplementedError

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
        return pack(weight, self.layout)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Sets the zero weight and a zero bias; makes a layer from `to_empty()` valid."""
        for name in self.layout.tensors:
            getattr(self, name).zero_()
        if not self.weight_format.is_meta:
            self.weight_format.copy_(torch.tensor(self.layout.header))
        if self.bias is not None:
            self.bias.zero_()

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight that the layer multiplies with: a new tensor [out_features, in_features].

        Args:
            dtype: float32, or bfloat16 or float16 (rounded once from float32).
        """
        return self.layout.decode(self._stored, dtype)

    @property
    def W_q(self) -> Tensor:
        """The stored codes, under the name by which PEFT knows a layer with `dequantize()`."""
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

    def _mismatches(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """What is wrong with tensors, by state-dict name, that are to become the layer's state."""
        return mismatches(tensors, self.layout)

    @property
    def _stored(self) -> Mapping[str, Tensor]:
        # module attributes, but found at a tenth of the cost: this is read by every forward
        return self._parameters  # type: ignore[return-value]

    def _bias_in(self, dtype: torch.dtype) -> Tensor | None:
        """The bias in the dtype of the input."""
        stored = self._stored
        # A parametrized bias is not stored under its name; asking for it is slow otherwise.
        bias = stored["bias"] if "bias" in stored else self.bias  # noqa: SIM401
        return bias.to(dtype) if bias is not None and bias.dtype != dtype else bias

    def _set_frozen(self, name: str, tensor: Tensor) -> None:
        setattr(self, name, nn.Parameter(tensor, requires_grad=False))

    def _set_empty(
        self, bias: bool, device: torch.device | str | int | None, dtype: torch.dtype | None
    ) -> None:
        """Gives a new layer its parameters, holding zero."""
        for name, spec in self.layout.tensors.items():
            self._set_frozen(name, torch.empty(spec.shape, dtype=spec.dtype, device=device))
        if bias:
            self.bias = nn.Parameter(torch.empty(self.out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _take_over(self, linear: nn.Linear) -> Self:
        """Makes a layer without a bias the quantization of a dense one."""
        self.quantize_(linear.weight)
        self.bias = linear.bias
        return self.train(linear.training)

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
            name: state_dict[prefix + name] for name in STORED_NAMES if prefix + name in state_dict
        }
        problems = self._mismatches(found) if found and self.layout.tensors else []
        if problems:
            error_msgs.append(f"quantized weight {prefix.rstrip('.')!r}: " + "; ".join(problems))
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def is_quantized(module: nn.Module) -> TypeGuard[QuantizedLinear]:
    """Whether a module is a linear layer whose weight is stored quantized."""
    return isinstance(module, QuantizedLinear) and bool(module.layout.tensors)


def check_dense(linear: object) -> None:
    """Raises TypeError unless `linear` is a linear layer that holds its weight as it is."""
    if not isinstance(linear, nn.Linear) or is_quantized(linear):
        raise TypeError(f"linear must be a dense nn.Linear, got {type(linear).__name__}")
