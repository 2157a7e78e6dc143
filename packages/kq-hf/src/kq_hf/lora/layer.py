"""The LoRA layer on a quantized base layer."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners import lora
from peft.tuners.lora.variants import DoraLinearVariant
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from kq_nn import QuantizedLinear


@dataclass(frozen=True)
class MergeError:
    """What quantizing again after a merge has cost, in Frobenius norms.

    Attributes:
        of_weight: ‖Q(W + Δ) - (W + Δ)‖ / ‖W + Δ‖, with W the weight before and Δ the adapters.
        of_change: The same error divided by ‖Δ‖: above 1, more was lost than the adapters say.
    """

    of_weight: float
    of_change: float


class LoraLinear(lora.Linear):
    """PEFT's LoRA layer for a quantized base layer, plain or with DoRA.

    Merging dequantizes the weight, adds every merged adapter in float32 and quantizes once; so
    the order of merging does not matter, and merging two adapters costs no more accuracy than
    merging one. The stored bits from before are kept until the layer is unloaded: `unmerge`
    brings them back exactly.

    Attributes:
        merge_error: What the last merge has cost; None when nothing is merged.
    """

    # Class attributes, because a stock layer becomes one of these by its class alone (`adopt`).
    merge_error: MergeError | None = None
    _unmerged: dict[str, nn.Parameter] | None = None

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Puts adapters into the quantized weight.

        Args:
            safe_merge: Refuse to merge values that are not finite.
            adapter_names: Which adapters; None means the active ones.

        Raises:
            ValueError: If `safe_merge` finds a value that is not finite, if an adapter has a
                bias and the base layer has none, or if an adapter is of a variant of LoRA that
                cannot be merged here. The layer is unchanged then.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.r]
        if names:
            self._set_merged([*self.merged_adapters, *names], safe_merge)

    def unmerge(self) -> None:
        """Restores the weight from before all merges, bit for bit."""
        if self.merged:
            self._set_merged([], safe_merge=False)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> QuantizedLinear:
        """Called by PEFT: the base layer, with the adapters merged or as it was."""
        if merge:
            self.merge(safe_merge, adapter_names)
        else:
            self.unmerge()
        self._unmerged = None  # frees them layer by layer
        return self._base

    @property
    def _base(self) -> QuantizedLinear:
        return cast(QuantizedLinear, self.get_base_layer())

    @torch.no_grad()
    def _set_merged(self, names: list[str], safe_merge: bool) -> None:
        """Makes the base layer hold the original weight plus these adapters."""
        base = self._base
        device = base.weight.device  # the layer may have been moved since the first merge
        kept = self._unmerged or dict(base.named_parameters())
        before = {key: _on(device, parameter) for key, parameter in kept.items()}
        after = dict(before)
        error = None
        if names:
            original = base.layout.decode(before, torch.float32)
            merged = original.clone()
            for name in names:
                merged += self._change(name, original)
                if (change := self._bias_change(name)) is not None:
                    if "bias" not in after:
                        raise ValueError(f"adapter {name!r} has a bias, its base layer has none")
                    bias = after["bias"]
                    after["bias"] = nn.Parameter(bias + change.to(bias.dtype), bias.requires_grad)
            values = [merged, after["bias"]] if "bias" in after else [merged]
            if safe_merge and not all(bool(torch.isfinite(value).all()) for value in values):
                raise ValueError(f"adapters {names}: the merged weight is not finite")
            for key, tensor in base.pack(merged).items():
                after[key] = nn.Parameter(tensor, requires_grad=False)
            error = _merge_error(original, merged, base.layout.decode(after, torch.float32))
        for key, parameter in after.items():
            setattr(base, key, parameter)
        self.merged_adapters[:] = names
        self.merge_error = error
        self._unmerged = before if names else None

    def _change(self, name: str, original: Tensor) -> Tensor:
        """What an adapter adds to the weight: float32 [out, in]."""
        delta: Tensor = self.get_delta_weight(name).float()
        variant = self.lora_variant.get(name)
        if variant is None:
            return delta
        if not isinstance(variant, DoraLinearVariant):
            kind = type(variant).__name__
            raise ValueError(f"adapter {name!r} is of the kind {kind}, which kq cannot merge")
        magnitude: Any = self.lora_magnitude_vector[name]
        norm = magnitude.get_weight_norm(original, delta, scaling=1)
        factor: Tensor = (magnitude.weight / norm).view(-1, 1)
        return factor * (original + delta) - original

    def _bias_change(self, name: str) -> Tensor | None:
        """What an adapter adds to the bias: [out], or None."""
        if not self.lora_bias.get(name, False):
            return None
        change: Tensor = self.lora_B[name].bias * self.scaling[name]
        return change


def _on(device: torch.device, parameter: nn.Parameter) -> nn.Parameter:
    if parameter.device == device:
        return parameter
    return nn.Parameter(parameter.detach().to(device), parameter.requires_grad)


def _merge_error(original: Tensor, merged: Tensor, stored: Tensor) -> MergeError:
    error = float((stored - merged).norm())
    return MergeError(
        of_weight=_ratio(error, float(merged.norm())),
        of_change=_ratio(error, float((merged - original).norm())),
    )


def _ratio(error: float, size: float) -> float:
    if size == 0:
        return 0.0 if error == 0 else float("inf")
    return error / size
