"""Matching of module names, with the meaning that transformers gives `modules_to_not_convert`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def check_patterns(patterns: Sequence[str]) -> None:
    """Raises TypeError or ValueError unless `patterns` is a sequence of regular expressions."""
    if isinstance(patterns, str):
        raise TypeError(f"skip must be a sequence of patterns, got the string {patterns!r}")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"skip must hold strings, got {pattern!r}")
        if not pattern:
            raise ValueError("skip must not hold the empty string: it would match every module")
        try:
            _up_to_boundary(pattern)
        except re.error as error:
            raise ValueError(
                f"skip pattern {pattern!r} is no regular expression: {error}"
            ) from error


def matches(pattern: str, name: str) -> bool:
    """Whether `pattern` matches a dotted module name.

    Either as a regular expression from the start of the name up to a dot or the end ("layers.1"
    matches "layers.1.mlp", not "layers.11"), or as a plain suffix ("head" matches "lm_head").
    """
    return name.endswith(pattern) or _up_to_boundary(pattern).match(name) is not None


def _up_to_boundary(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{pattern})(?:(?<=\.)|\.|$)")


def unmatched(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The patterns that match none of the names."""
    names = list(names)
    return [pattern for pattern in patterns if not any(matches(pattern, n) for n in names)]
