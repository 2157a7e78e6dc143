"""Finding the backend under test, and reading what it declares."""

import importlib
from collections.abc import Container, Iterable
from importlib.metadata import entry_points
from typing import Any, Protocol

from kq_conformance.cases import Demand

__all__ = [
    "GROUP",
    "BackendError",
    "Declaration",
    "declares",
    "describe_backend",
    "find_backend",
    "in_words",
]

GROUP = "kq.backends"


class BackendError(Exception):
    """The backend that was asked for cannot be found or loaded."""


class Declaration(Protocol):
    """One entry of a backend's `capabilities`; None means any, an empty set does not apply."""

    op: str
    dtypes: frozenset[str]
    devices: frozenset[str] | None
    quant_types: frozenset[str]
    blocksizes: frozenset[int] | None
    rules: frozenset[str]
    # Optional, as it came later: roundings: frozenset[str], {"nearest"} if there is none.


def in_words(error: BaseException) -> str:
    """An exception in one line, whatever its own words do."""
    try:
        words = str(error).partition("\n")[0]
    except Exception:
        words = "(its message cannot be read)"
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def find_backend(name: str) -> Any:
    """Load a backend by the name of its entry point, or as "package.module:object".

    An entry point's value is a function that returns the backend; an object may also be the backend
    itself.

    Raises:
        BackendError: if there is none of that name, or it cannot be imported; the message holds the
            loader's own words.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except Exception as error:
            raise BackendError(f"cannot load backend {name!r}: {in_words(error)}") from error
    else:
        points = {point.name: point for point in entry_points(group=GROUP)}
        if name not in points:
            known = ", ".join(sorted(points)) or "none is installed"
            raise BackendError(
                f"backend {name!r} is not registered in the entry-point group {GROUP!r}"
                f" ({known}); or name it as package.module:object"
            )
        try:
            found = points[name].load()
        except Exception as error:
            raise BackendError(f"cannot load backend {name!r}: {in_words(error)}") from error
    return _instance(name, found)


def _instance(name: str, found: Any) -> Any:
    """Call a loader, and check that the result looks like a backend."""
    if callable(found) and not _is_backend(found):
        try:
            found = found()
        except Exception as error:
            raise BackendError(f"cannot load backend {name!r}: {in_words(error)}") from error
    if not _is_backend(found):
        raise BackendError(
            f"backend {name!r} is a {type(found).__name__} without name, version, capabilities"
            " and describe()"
        )
    return found


def _is_backend(found: Any) -> bool:
    names = ("name", "version", "capabilities", "describe")
    return not isinstance(found, type) and all(hasattr(found, each) for each in names)


def describe_backend(argument: str, found: Any) -> tuple[str, str, dict[str, str]]:
    """Name, version and description of a backend, once what it declares has been looked at.

    Args:
        argument: how the backend was named.
        found: the backend.

    Raises:
        BackendError: naming what is not as `Declaration` and the contract say.
    """
    try:
        described = dict(found.describe())
        capabilities = tuple(found.capabilities)
    except Exception as error:
        raise BackendError(
            f"backend {argument!r} does not describe itself: {in_words(error)}"
        ) from error
    for name in ("name", "version"):
        text = getattr(found, name)
        if not isinstance(text, str) or not text:
            raise BackendError(
                f"backend {argument!r}: {name} must be a text that is not empty, got {text!r}"
            )
    for capability in capabilities:
        _check_capability(argument, capability)
    texts = {str(key): str(value) for key, value in described.items()}
    return found.name, found.version, texts


_SETS = ("dtypes", "devices", "quant_types", "blocksizes", "rules")
_MAY_BE_NONE = ("devices", "blocksizes")
_NEAREST = frozenset({"nearest"})


def _check_capability(argument: str, capability: Any) -> None:
    for name in ("op", *_SETS):
        if not hasattr(capability, name):
            raise BackendError(
                f"backend {argument!r}: a capability must have the attribute {name!r},"
                f" got {capability!r}"
            )
    for name in (*_SETS, "roundings"):
        value = getattr(capability, name, _NEAREST)
        if value is None and name in _MAY_BE_NONE:
            continue
        if isinstance(value, str) or not isinstance(value, Container):
            raise BackendError(
                f"backend {argument!r}: {name} of the capability {capability.op!r} must be a set,"
                f" got {value!r}"
            )


def declares(capabilities: Iterable[Declaration], demand: Demand, device: str) -> bool:
    """Whether one of the declared capabilities covers what a case needs."""
    return any(
        each.op == demand.op
        and demand.dtype in each.dtypes
        and (each.devices is None or device in each.devices)
        and (demand.quant_type is None or demand.quant_type in each.quant_types)
        and (
            demand.blocksize is None
            or each.blocksizes is None
            or demand.blocksize in each.blocksizes
        )
        and (demand.rule is None or demand.rule in each.rules)
        and (demand.rounding is None or demand.rounding in getattr(each, "roundings", _NEAREST))
        for each in capabilities
    )
