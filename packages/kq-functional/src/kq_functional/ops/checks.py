"""Checks of tensor arguments, shared by real and fake kernels, and the views backends take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..backends.base import Scales
from ..codebooks import is_shared_table
from ..formats import NESTED_BLOCKSIZE, Geometry, dtype_name, geometry


def check_tensor(
    name: str, tensor: Tensor, dtype: torch.dtype, numel: int, device: torch.device
) -> None:
    """Raise unless a tensor has this dtype, this number of elements and this device."""
    if tensor.dtype is dtype and tensor.numel() == numel and tensor.device == device:
        return
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {dtype_name(dtype)}, got {dtype_name(tensor.dtype)}")
    if tensor.numel() != numel:
        raise ValueError(
            f"{name} must have {numel} elements, got {tensor.numel()} (shape {tuple(tensor.shape)})"
        )
    raise ValueError(f"{name} must be on {device}, got {tensor.device}")


def check_product(name: str, x: Tensor, weight_dim: int, shape: Sequence[int]) -> None:
    """Raise unless the last dimension of `x` fits a dimension of a weight of this shape."""
    if len(shape) != 2:
        raise ValueError(f"the weight must have two dimensions, got shape {tuple(shape)}")
    if x.ndim == 0 or x.shape[-1] != shape[weight_dim]:
        raise ValueError(
            f"the last dimension of {name} must be {shape[weight_dim]} for a weight of shape "
            f"{tuple(shape)}, got shape {tuple(x.shape)}"
        )


def check_bias(
    bias: Tensor | None, dtype: torch.dtype, features: int, device: torch.device
) -> None:
    """Raise unless a bias, if there is one, is a vector of this dtype, size and device."""
    if bias is not None:
        check_tensor("bias", bias, dtype, features, device)
        if bias.ndim != 1:
            raise ValueError(f"bias must have shape ({features},), got {tuple(bias.shape)}")


def check_out(
    name: str, tensor: Tensor, dtype: torch.dtype, shape: Sequence[int], device: torch.device
) -> None:
    """Raise unless a result can be written to a tensor: shape, dtype, device, contiguity."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")
    check_tensor(name, tensor, dtype, tensor.numel(), device)
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}")


def _extent(tensor: Tensor) -> int:
    """Return the bytes from the first element of a tensor to its last one."""
    if tensor.is_contiguous():
        return tensor.nbytes
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in steps)) * tensor.element_size()


def check_apart(name: str, result: Tensor, **others: Tensor) -> None:
    """Raise ValueError if a contiguous result shares memory with another tensor of the call."""
    start = result.data_ptr()
    stop = start + result.nbytes
    for other, tensor in others.items():
        if tensor.device != result.device or not tensor.numel():
            continue
        first = tensor.data_ptr()
        if first < stop and start < first + _extent(tensor):
            raise ValueError(f"{name} must not share memory with {other}")


def check_code(name: str, code: Tensor, device: torch.device) -> None:
    """Raise unless a tensor can be an 8-bit codebook (its order is checked when quantizing)."""
    check_tensor(name, code, torch.float32, 256, device)


_ordered: WeakIdKeyDictionary = WeakIdKeyDictionary()


def check_order(name: str, code: Tensor) -> None:
    """Raise unless an 8-bit codebook is ascending and finite; looks at each version of it once."""
    if is_shared_table(code) or (not code.is_inference() and _ordered.get(code) == code._version):
        return
    if not bool(((code[:-1] <= code[1:]) & code[:-1].isfinite() & code[1:].isfinite()).all()):
        raise ValueError(f"{name} must be sorted in ascending order and finite")
    if not code.is_inference():
        _ordered[code] = code._version


def matrix(tensor: Tensor, rows: int, cols: int) -> Tensor:
    """Return a contiguous [rows, cols] view, or a copy of a tensor that is not contiguous."""
    if tensor.ndim == 2 and tensor.shape[0] == rows and tensor.is_contiguous():
        return tensor
    return tensor.contiguous().view(rows, cols)


def row_matrix(tensor: Tensor, rows: int, cols: int) -> Tensor:
    """Return a [rows, cols] view as `Backend` takes its unquantized input, or a contiguous copy.

    A view is what is contiguous or has whole rows at one distance of each other, such as
    x[..., :cols] of a wider x.
    """
    if tensor.ndim == 2 and tensor.shape[0] == rows and tensor.is_contiguous():
        return tensor
    seen = tensor.reshape(rows, cols)  # a view unless no strides give these rows
    row_stride, stride = seen.stride()
    return seen if stride == 1 and row_stride >= cols else seen.contiguous()


def dense_scales(scales: Scales, geo: Geometry, device: torch.device) -> Scales:
    """Check that scales, plain or double quantized, are those of a tensor of this geometry.

    Returns:
        The scales as backends take them: contiguous, absmax in two dimensions.
    """
    absmax, nested_absmax, nested_code, offset = scales
    count = geo.rows * geo.blocks
    if nested_absmax is None and nested_code is None and offset is None:
        check_tensor("absmax", absmax, torch.float32, count, device)
        return Scales(matrix(absmax, geo.rows, geo.blocks))
    if nested_absmax is None or nested_code is None or offset is None:
        raise ValueError(
            "nested_absmax, nested_code and offset must be given together: all, or none"
        )
    check_tensor("absmax", absmax, torch.uint8, count, device)
    groups = (count + NESTED_BLOCKSIZE - 1) // NESTED_BLOCKSIZE
    check_tensor("nested_absmax", nested_absmax, torch.float32, groups, device)
    check_code("nested_code", nested_code, device)
    check_tensor("offset", offset, torch.float32, 1, device)
    return Scales(
        matrix(absmax, geo.rows, geo.blocks),
        nested_absmax.contiguous(),
        nested_code.contiguous(),
        offset.contiguous(),
    )


def dense_weight(
    packed: Tensor, scales: Scales, shape: Sequence[int], blocksize: int, layout: str
) -> tuple[Tensor, Scales, Geometry]:
    """Check packed codes and scales against the shape they decode to.

    Returns:
        The codes and scales as backends take them, and the geometry of the shape.
    """
    geo = geometry(shape, blocksize, layout)
    device = packed.device
    check_tensor("packed", packed, torch.uint8, geo.rows * geo.packed_cols, device)
    return matrix(packed, geo.rows, geo.packed_cols), dense_scales(scales, geo, device), geo
