"""What share of a model is quantized, and what is not and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from kq_nn.quantized import is_quantized


@dataclass(frozen=True)
class SkippedModule:
    """Parameters that stay as they are.

    Attributes:
        name: dotted name of the module (of the parameter, for the bias of a quantized layer).
        reason: why it was not quantized.
        parameters: number of elements; 0 for a tied weight, which is counted with its first owner.
    """

    name: str
    reason: str
    parameters: int


@dataclass(frozen=True)
class CoverageReport:
    """How much of a model is held quantized.

    Every parameter is counted once, a quantized weight as the dense weight it stands for:
    total_parameters = quantized_parameters + the sum over `skipped`.

    Attributes:
        total_parameters: elements of all parameters.
        quantized_parameters: elements of the quantized weights.
        bytes_before: size of all parameters with every weight dense.
        bytes_after: size of all parameters as they are now.
        quantized_bytes_before: the quantized weights' part of `bytes_before`.
        quantized_bytes_after: the quantized weights' part of `bytes_after`, scales included.
        skipped: what is not quantized, in the order of the model.
    """

    total_parameters: int
    quantized_parameters: int
    bytes_before: int
    bytes_after: int
    quantized_bytes_before: int
    quantized_bytes_after: int
    skipped: tuple[SkippedModule, ...]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        reasons: Mapping[str, str] | None = None,
        dense_bytes: Mapping[str, int] | None = None,
        dense_dtype: torch.dtype = torch.bfloat16,
    ) -> CoverageReport:
        """Surveys a model as it is; buffers are not counted.

        Args:
            model: any module, on any device.
            reasons: why a dense `nn.Linear` was left alone, by module name.
            dense_bytes: size that quantized weights had when they were dense, by module name.
            dense_dtype: dtype assumed for the other quantized weights when they were dense.
        """
        reasons, dense_bytes = reasons or {}, dense_bytes or {}
        seen: set[int] = set()
        skipped: list[SkippedModule] = []
        quantized = quantized_before = quantized_after = other_bytes = 0
        for name, module in model.named_modules():
            fresh = {
                key: parameter
                for key, parameter in module.named_parameters(recurse=False)
                if id(parameter) not in seen
            }
            seen.update(id(parameter) for parameter in fresh.values())
            reason = reasons.get(name, f"not nn.Linear ({type(module).__name__})")
            if is_quantized(module):
                bias = fresh.pop("bias", None)
                elements = module.in_features * module.out_features
                quantized += elements
                quantized_before += dense_bytes.get(name, elements * dense_dtype.itemsize)
                quantized_after += sum(parameter.nbytes for parameter in fresh.values())
                fresh = {} if bias is None else {"bias": bias}
                name, reason = f"{name}.bias", "bias of a quantized layer"
            elif type(module) is nn.Linear and name not in reasons:
                reason = "not quantized"
            other_bytes += sum(parameter.nbytes for parameter in fresh.values())
            if fresh or name in reasons:
                elements = sum(parameter.numel() for parameter in fresh.values())
                skipped.append(SkippedModule(name, reason, elements))
        return cls(
            total_parameters=quantized + sum(record.parameters for record in skipped),
            quantized_parameters=quantized,
            bytes_before=quantized_before + other_bytes,
            bytes_after=quantized_after + other_bytes,
            quantized_bytes_before=quantized_before,
            quantized_bytes_after=quantized_after,
            skipped=tuple(skipped),
        )

    @property
    def parameter_share(self) -> float:
        """Share of the parameters that is quantized, from 0 to 1."""
        return self.quantized_parameters / max(self.total_parameters, 1)

    @property
    def byte_share(self) -> float:
        """Share of the dense model's bytes that is quantized, from 0 to 1."""
        return self.quantized_bytes_before / max(self.bytes_before, 1)

    @property
    def bits_per_weight(self) -> float:
        """Bits per quantized weight, scales included; 0 if there is none."""
        return 8 * self.quantized_bytes_after / max(self.quantized_parameters, 1)

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON-serializable values."""
        return asdict(self) | {
            "skipped": [asdict(record) for record in self.skipped],
            "parameter_share": self.parameter_share,
            "byte_share": self.byte_share,
            "bits_per_weight": self.bits_per_weight,
        }

    def __str__(self) -> str:
        summary = (
            f"quantized {self.quantized_parameters:,} of {self.total_parameters:,} parameters "
            f"({self.parameter_share:.1%}) and {self.byte_share:.1%} of the bytes, "
            f"at {self.bits_per_weight:.3f} bits per weight"
        )
        lines = [summary, f"size {self.bytes_before:,} -> {self.bytes_after:,} bytes"]
        by_reason: dict[str, list[SkippedModule]] = {}
        for record in self.skipped:
            by_reason.setdefault(record.reason, []).append(record)
        for reason, records in by_reason.items():
            names = ", ".join(record.name or "(root)" for record in records[:3])
            more = f", and {len(records) - 3} more" if len(records) > 3 else ""
            elements = sum(record.parameters for record in records)
            lines.append(f"skipped {elements:,} parameters, {reason}: {names}{more}")
        return "\n".join(lines)
