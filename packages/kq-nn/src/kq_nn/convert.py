"""Conversion of the linear layers of a whole model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn

from kq_functional.formats import FLOAT_DTYPES
from kq_nn.coverage import CoverageReport
from kq_nn.kept import Columns, check_columns
from kq_nn.patterns import check_patterns, matches, unmatched
from kq_nn.quantized import is_quantized
from kq_nn.recipe import Recipe

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def quantize_model(
    model: nn.Module,
    *,
    format: str = "nf4",  # noqa: A002 - the field's own name
    blocksize: int | None = None,
    compress_statistics: bool | None = None,
    threshold: float | None = None,
    kept_columns: Mapping[str, Columns] | None = None,
    skip: Sequence[str] = (),
) -> CoverageReport:
    """Replaces the `nn.Linear` layers of a model by quantized ones, in place and one at a time.

    Left as they are, and listed in the report: layers that `skip` names, weights that are tied
    to another module's, subclasses of `nn.Linear` (whoever wrote them may use the dense weight),
    layers with hooks (which would be lost), and layers that are not float32, bfloat16 or
    float16. Layers that are quantized already stay so and count as quantized.

    Args:
        model: a module that contains linear layers, on any device, "meta" included.
        format: "nf4" or "fp4" (makes `Linear4bit`), or "int8" (makes `Linear8bitLt`).
        blocksize: of 4-bit formats: elements that share a scale, a power of two from 32 to 4096;
            by default 64.
        compress_statistics: of 4-bit formats: double quantization; by default yes.
        threshold: of int8: magnitude from which inputs are outliers, 0: none is; by default 6.0.
        kept_columns: of int8: by name of a linear layer, the columns of its weight for which what
            rounding takes is kept (see `Linear8bitLt`). Those of layers that are left as they are
            do not matter. By default of no layer.
        skip: patterns of module names: a regular expression that matches from the start of the
            name up to a dot or its end, or a plain suffix. One that matches no module with
            parameters is reported by a UserWarning.

    Returns:
        What was quantized, what was not and why.

    Raises:
        TypeError: if `model` is itself an `nn.Linear`, which cannot be replaced in place, or an
            argument is of the wrong type.
        ValueError: for an argument out of range; the model is unchanged then.
    """
    if isinstance(model, nn.Linear):
        raise TypeError("model is itself an nn.Linear: use from_linear of a quantized layer")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    check_patterns(skip)
    recipe = Recipe.of(
        format,
        blocksize=blocksize,
        compress_statistics=compress_statistics,
        threshold=threshold,
        kept_columns=kept_columns,
    )
    _check_kept(model, recipe)
    # A container does not count: as a suffix "layers.1" matches it, but nothing inside it.
    owners = [name for name, module in model.named_modules() if module._parameters]
    for pattern in unmatched(skip, owners):
        warnings.warn(f"skip pattern {pattern!r} matches no module with parameters", stacklevel=2)

    reasons = _reasons_to_keep(model, skip)
    places = _places(model)
    # Names, not modules: a list of modules would keep every dense weight alive to the end.
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    dense_bytes: dict[str, int] = {}
    for name in names:
        if name in reasons:
            continue
        linear = cast(nn.Linear, model.get_submodule(name))
        layer = recipe.quantize(linear, name)
        dense_bytes[name] = linear.weight.nbytes
        for parent, key in places[id(linear)]:
            setattr(parent, key, layer)
    return CoverageReport.of(model, reasons=reasons, dense_bytes=dense_bytes)


def _check_kept(model: nn.Module, recipe: Recipe) -> None:
    """Raises ValueError unless the columns to keep are those of linear layers of the model."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    for name, columns in (recipe.kept_columns or {}).items():
        if name not in layers:
            raise ValueError(f"kept_columns: {name!r} is no linear layer of the model")
        try:
            check_columns(columns, layers[name].in_features)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def _reasons_to_keep(model: nn.Module, skip: Sequence[str]) -> dict[str, str]:
    """Why a linear layer is not to be replaced, by module name; no entry: replace it."""
    owners = _owners(model)
    # Its inference path hands the dense weights of these two to a fused kernel.
    fused = {
        id(linear)
        for layer in model.modules()
        if isinstance(layer, nn.TransformerEncoderLayer)
        for linear in (layer.linear1, layer.linear2)
    }
    reasons = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or is_quantized(module):
            continue
        others = [owner for owner in owners[id(module.weight)] if owner != _join(name, "weight")]
        pattern = next((pattern for pattern in skip if matches(pattern, name)), None)
        if pattern is not None:
            reasons[name] = f"matches skip pattern {pattern!r}"
        elif type(module) is not nn.Linear:
            reasons[name] = f"subclass of nn.Linear ({type(module).__name__})"
        elif id(module) in fused:
            reasons[name] = "read directly by nn.TransformerEncoderLayer"
        elif others:
            reasons[name] = f"tied to {others[0]}"
        elif module.weight.dtype not in FLOAT_DTYPES:
            reasons[name] = f"dtype {module.weight.dtype}"
        elif any(getattr(module, hooks) for hooks in _HOOKS) or "forward" in vars(module):
            reasons[name] = "has hooks"
    return reasons


def _join(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Names under which distinct modules hold each parameter, by id of the parameter."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(_join(name, key))
    return owners


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Where each module is registered, by its id: one layer may be used in several places."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in model.modules():
        for key, child in parent._modules.items():
            if child is not None:
                places.setdefault(id(child), []).append((parent, key))
    return places
