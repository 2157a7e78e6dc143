"""Which backend computes a call: chosen once per kind of call, pinned by `use_backend`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import torch

from . import registry
from .backends.base import OPS, Backend, Capability, roundings
from .formats import (
    OPTIMIZER_BLOCKSIZE,
    check_blocksize,
    check_dtype,
    check_quant_type,
    dtype_name,
)
from .int8_format import check_int8
from .rules import check_rounding, check_rule


class Query(NamedTuple):
    """The kind of a call. Empty text and 0 stand for "does not apply"."""

    op: str
    device: str
    dtype: torch.dtype
    quant_type: str = ""
    blocksize: int = 0
    rule: str = ""
    rounding: str = ""


_pinned: ContextVar[str | None] = ContextVar("kq_pinned_backend", default=None)
_choices: dict[tuple[str | None, tuple[object, ...]], Backend] = {}


def check_query(query: Query) -> None:
    """Refuse what no backend can compute, naming the argument."""
    if query.op not in OPS:
        raise ValueError(f"op must be one of {', '.join(OPS)}, got {query.op!r}")
    if query.op == "int8_linear_matmul":
        check_int8(OPS[query.op], query.dtype)
        return
    check_dtype(OPS[query.op], query.dtype)
    if query.op.startswith("optimizer"):
        check_rule(query.rule)
        check_rounding(query.rounding, query.dtype)
    elif not query.op.startswith("int8"):
        four_bit = "4bit" in query.op
        check_blocksize(query.blocksize, four_bit=four_bit)
        if four_bit:
            check_quant_type(query.quant_type)


def _objection(capability: Capability, query: Query) -> str:
    """Return why a capability does not cover a query, or nothing if it does."""
    if capability.devices is not None and query.device not in capability.devices:
        return f"{query.op} not on device {query.device}"
    if dtype_name(query.dtype) not in capability.dtypes:
        return f"{query.op} not for {dtype_name(query.dtype)}"
    if query.quant_type and query.quant_type not in capability.quant_types:
        return f"{query.op} not for {query.quant_type}"
    accepted = capability.blocksizes
    if query.blocksize and accepted is not None and query.blocksize not in accepted:
        return f"{query.op} not for blocksize {query.blocksize}"
    if query.rule and query.rule not in capability.rules:
        return f"{query.op} not for rule {query.rule}"
    if query.rounding and query.rounding not in roundings(capability):
        return f"{query.op} not for rounding {query.rounding}"
    return ""


def _verdict(backend: Backend, query: Query) -> str:
    """Return why a backend does not compute a query, or nothing if it does."""
    objections = [_objection(c, query) for c in backend.capabilities if c.op == query.op]
    if not objections:
        return f"does not declare {query.op}"
    return "" if "" in objections else "; ".join(objections)


def choose(query: Query) -> Backend:
    """Return the backend that computes calls of this kind; looks it up after the first time.

    Raises:
        TypeError, ValueError: An argument that no backend accepts.
        NotImplementedError: No backend, or not the pinned one, computes this.
    """
    key = (_pinned.get(), query)
    backend = _choices.get(key)
    if backend is None:
        backend = _choices[key] = _select(query)
    return backend


def choose_known(*kind: str | int | torch.dtype) -> Backend:
    """Return `choose(Query(*kind))`; all fields must be given. It makes no query a second time."""
    backend = _choices.get((_pinned.get(), kind))  # a tuple equals the query of its fields
    return choose(Query(*kind)) if backend is None else backend  # type: ignore[arg-type]


def _select(query: Query) -> Backend:
    check_query(query)
    pinned = _pinned.get()
    if pinned is not None:
        backend = registry.load_or_raise(pinned)
        verdict = _verdict(backend, query)
        if verdict:
            raise NotImplementedError(
                f"the pinned backend {pinned!r} cannot compute this: {verdict}"
            )
        return backend
    for name in registry.names():
        candidate = registry.load(name).backend
        if candidate is not None and not _verdict(candidate, query):
            return candidate
    raise NotImplementedError(str(_explain(query)))


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute every op inside the block with one backend, for tests and bug reports.

    The pin belongs to the current thread or task (it is a context variable).

    Args:
        name: A registered name, or "module:object".

    Raises:
        ValueError: Unknown name; the message lists the registered ones.
        ImportError: The backend cannot be loaded; with the loader's own message.
        NotImplementedError: Raised by an op inside the block that the backend does not declare.
    """
    registry.load_or_raise(name)
    token = _pinned.set(name)
    try:
        yield
    finally:
        _pinned.reset(token)


@dataclass(frozen=True)
class Explanation:
    """Which backend computes a kind of call, and why.

    Attributes:
        query: The call, as text.
        chosen: Name of the backend, or None if there is none.
        candidates: (name, reason) for every backend in the order tried.
    """

    query: str
    chosen: str | None
    candidates: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [f"{self.query}: {self.chosen or 'no backend can compute this'}"]
        return "\n".join(lines + [f"  {name}: {reason}" for name, reason in self.candidates])


def _explain(query: Query) -> Explanation:
    pinned = _pinned.get()
    chosen: str | None = None
    candidates = []
    for name in (pinned,) if pinned is not None else registry.names():
        outcome = registry.load(name)
        if outcome.backend is None:
            reason = f"cannot be loaded: {outcome.error}"
        elif verdict := _verdict(outcome.backend, query):
            reason = verdict
        elif chosen is None:
            chosen, reason = name, "pinned by use_backend" if pinned else "chosen"
        else:
            reason = f"could, but {chosen} comes first"
        candidates.append((name, reason))
    details = [f"{name}={value}" for name, value in _shown(query)]
    return Explanation(f"{query.op}({', '.join(details)})", chosen, tuple(candidates))


def _shown(query: Query) -> Iterator[tuple[str, object]]:
    yield "device", query.device
    yield "dtype", dtype_name(query.dtype)
    for name in ("quant_type", "blocksize", "rule", "rounding"):
        if value := getattr(query, name):
            yield name, value


def explain(
    op: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    quant_type: str = "nf4",
    blocksize: int | None = None,
    rule: str = "adam",
    rounding: str = "nearest",
) -> Explanation:
    """Say which backend computes a kind of call and why the others do not; loads every candidate.

    Args:
        op: Name of an op, such as "linear_4bit".
        device: Where the tensors are.
        dtype: Of the unquantized tensor (for the optimizer steps, of the parameters); not used for
            int8_linear_matmul, which has none.
        quant_type: For 4-bit ops.
        blocksize: For block-wise ops; by default that of the public function.
        rule: For optimizer steps.
        rounding: For optimizer steps.

    Returns:
        An `Explanation`; print it.

    Raises:
        TypeError, ValueError: An argument that no backend accepts.
    """
    device_type = torch.device(device).type
    if op.startswith("optimizer"):
        fixed = OPTIMIZER_BLOCKSIZE if op.endswith("8bit") else 0
        query = Query(op, device_type, dtype, "", fixed, rule, rounding)
    elif op.startswith("int8"):
        query = Query(op, device_type, torch.int8 if op == "int8_linear_matmul" else dtype)
    elif "4bit" in op:
        query = Query(op, device_type, dtype, quant_type, 64 if blocksize is None else blocksize)
    else:
        query = Query(op, device_type, dtype, blocksize=4096 if blocksize is None else blocksize)
    check_query(query)
    return _explain(query)
