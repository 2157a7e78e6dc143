"""Finding and loading backends: entry points of the group "kq.backends", or "module:object"."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Container
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from typing import Any

from .backends.base import OPS, Backend, BackendNotInstalledError, Capability

GROUP = "kq.backends"
BUILT_IN = ("native", "torch")
_DISTRIBUTION = "kq-functional"


@dataclass(frozen=True)
class BackendRecord:
    """What is known of one backend.

    Attributes:
        name: The name it is registered under.
        source: The "module:object" that loads it.
        status: "loaded", "failed", or "not installed" (its optional package is absent).
        error: The loader's message unless loaded.
        capabilities: What it declares; empty unless loaded.
        description: What it says about itself: versions, instruction set.
    """

    name: str
    source: str
    status: str
    error: str = ""
    capabilities: tuple[Capability, ...] = ()
    description: dict[str, str] | None = None


@dataclass(frozen=True)
class Loaded:
    """The outcome of loading one backend: the backend or the error."""

    backend: Backend | None = None
    error: Exception | None = None


_loaded: dict[str, Loaded] = {}


@cache
def _registered() -> dict[str, EntryPoint]:
    """Return the entry points by name: the built-in order first, then the others by name."""
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        ours = entry.dist is not None and entry.dist.name == _DISTRIBUTION
        first = found.setdefault(entry.name, entry)
        if first is not entry:
            kept, ignored = (entry, first) if ours else (first, entry)
            found[entry.name] = kept
            warnings.warn(
                f"two kq backends are registered as {entry.name!r}: "
                f"using {kept.value}, ignoring {ignored.value}",
                RuntimeWarning,
                stacklevel=2,
            )
    built_in = {name: found[name] for name in BUILT_IN if name in found}
    return built_in | found


def names() -> tuple[str, ...]:
    """Return the registered names in order of preference."""
    return tuple(_registered())


def _check_capability(capability: Any, source: str) -> None:
    """Raise ImportError unless an object declares what a `Capability` does, whatever its class."""
    missing = [
        field.name
        for field in fields(Capability)
        if field.name != "roundings" and not hasattr(capability, field.name)
    ]
    if missing:
        raise ImportError(
            f"{source} declares a capability without {', '.join(missing)}: {capability!r}"
        )
    if capability.op not in OPS:
        raise ImportError(f"{source} declares an unknown capability: {capability!r}")
    for name in ("dtypes", "devices", "quant_types", "blocksizes", "rules", "roundings"):
        value = getattr(capability, name, Capability.roundings)
        if value is None and name in ("devices", "blocksizes"):
            continue
        if isinstance(value, str) or not isinstance(value, Container):  # "c" is in "cpu"
            raise ImportError(
                f"{source} declares {capability.op} with {name} that are no set: {value!r}"
            )


def _check(backend: Any, source: str) -> Backend:
    for attribute in ("name", "version", "capabilities", "describe"):
        if not hasattr(backend, attribute):
            raise ImportError(f"{source} is not a kq backend: it has no attribute {attribute!r}")
    for capability in backend.capabilities:
        _check_capability(capability, source)
        method = getattr(backend, capability.op, None)
        inherited = getattr(method, "__func__", None) is getattr(Backend, capability.op)
        if method is None or inherited:
            raise ImportError(f"{source} declares {capability.op} but does not implement it")
    checked: Backend = backend
    return checked


def _resolve(name: str) -> tuple[str, Callable[[], Any]]:
    """Return the source of a backend and a function that fetches its object."""
    entry = _registered().get(name)
    if entry is not None:
        return entry.value, entry.load
    module_name, separator, attribute = name.partition(":")
    if not (separator and module_name and attribute):
        raise ValueError(
            f"unknown backend {name!r}: registered are {', '.join(_registered())}; "
            "a backend that is not registered is named as 'module:object'"
        )

    def fetch() -> Any:
        return attrgetter(attribute)(importlib.import_module(module_name))

    return name, fetch


def load(name: str) -> Loaded:
    """Load a backend once and remember the outcome; report a failure as a warning, once.

    Raises:
        ValueError: The name is neither registered nor of the form "module:object".
    """
    known = _loaded.get(name)
    if known is not None:
        return known
    source, fetch = _resolve(name)
    try:
        found = fetch()
        # An entry names the backend itself, or a function or class that makes it.
        made = hasattr(found, "capabilities") and not isinstance(found, type)
        backend = found if made else found()
        outcome = Loaded(backend=_check(backend, source))
    except BackendNotInstalledError as error:
        outcome = Loaded(error=error)
    except Exception as error:  # whatever a third-party loader raises must not break the others
        outcome = Loaded(error=error)
        warnings.warn(
            f"kq backend {name!r} cannot be loaded and is skipped: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
    _loaded[name] = outcome
    return outcome


def load_or_raise(name: str) -> Backend:
    """Load a backend that was asked for by name.

    Raises:
        ValueError: The name is unknown.
        ImportError: The backend cannot be loaded; the loader's own error is the cause.
    """
    outcome = load(name)
    if outcome.backend is None:
        raise ImportError(
            f"kq backend {name!r} cannot be loaded: {outcome.error}"
        ) from outcome.error
    return outcome.backend


def backends() -> tuple[BackendRecord, ...]:
    """Return a record for every registered backend, in order of preference; loads them all."""
    records = []
    for name, entry in _registered().items():
        outcome = load(name)
        if outcome.backend is None:
            absent = isinstance(outcome.error, BackendNotInstalledError)
            status = "not installed" if absent else "failed"
            records.append(BackendRecord(name, entry.value, status, error=str(outcome.error)))
        else:
            backend = outcome.backend
            records.append(
                BackendRecord(
                    name,
                    entry.value,
                    "loaded",
                    capabilities=tuple(backend.capabilities),
                    description=backend.describe(),
                )
            )
    return tuple(records)
