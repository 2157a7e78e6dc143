"""Which columns of a weight are kept, as arguments and as a stored tensor name them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Columns = Sequence[int] | Tensor
"""Indices of columns."""


def check_columns(columns: Columns, in_features: int | None = None) -> tuple[int, ...]:
    """The indices in ascending order.

    Args:
        columns: distinct indices; as a tensor of integers, [J].
        in_features: how many columns there are, if that is known.

    Raises:
        TypeError: if `columns` is not a sequence of integers.
        ValueError: if an index is out of range or there twice.
    """
    if isinstance(columns, Tensor):
        if columns.ndim != 1:
            raise ValueError(f"kept_columns must have one dimension, got {list(columns.shape)}")
        indices = columns.tolist()
    elif isinstance(columns, Sequence) and not isinstance(columns, (str, bytes)):
        indices = list(columns)
    else:
        raise TypeError(f"kept_columns must be a sequence of integers, got {columns!r}")
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"kept_columns must hold integers, got {index!r}")
        if index < 0 or (in_features is not None and index >= in_features):
            limit = "" if in_features is None else f" and less than {in_features}"
            raise ValueError(f"kept_columns must be at least 0{limit}, got {index}")
    if len(set(indices)) != len(indices):
        twice = next(index for index in indices if indices.count(index) > 1)
        raise ValueError(f"kept_columns must be distinct, got {twice} more than once")
    return tuple(sorted(indices))
