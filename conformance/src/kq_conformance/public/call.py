"""One call of public functions: inputs laid out along a route, results read and checked."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

import kq_functional as kq
from kq_conformance.floats import Array, Stored
from kq_conformance.public.tensors import bytes_of, from_tensor, poisoned, to_tensor
from kq_conformance.subject import ContractBreachError, Outputs, Route

__all__ = ["Call"]

_COPIES = 2  # how often EXPANDED repeats a matrix


def _every_second_column(bits: Array) -> Array:
    wide = np.full((bits.shape[0], 2 * bits.shape[1]), np.iinfo(bits.dtype).max, bits.dtype)
    wide[:, ::2] = bits
    return wide


# What lies in memory, and how the tensor that is handed over looks at it.
_LAYOUTS: dict[Route, tuple[Callable[[Array], Array], Callable[[Tensor], Tensor]]] = {
    Route.PLAIN: (lambda bits: bits, lambda base: base),
    Route.OUT: (lambda bits: bits, lambda base: base),
    Route.TRANSPOSED: (lambda bits: bits.T, lambda base: base.t()),
    Route.SLICED: (_every_second_column, lambda base: base[:, ::2]),
    Route.EXPANDED: (lambda bits: bits, lambda base: base.expand(_COPIES, *base.shape)),
}


class Call:
    """The tensors of one call, and the backend that computes it.

    Args:
        backend_name: what `kq_functional.use_backend` takes.
        device: torch device type of all tensors.
        route: how the unquantized input lies, and whether results are handed over.
    """

    def __init__(self, backend_name: str, device: str, route: Route) -> None:
        self._backend_name = backend_name
        self._device = device
        self._route = route
        self._taken: list[tuple[str, Tensor, Array]] = []

    def take(self, name: str, stored: Stored) -> Tensor:
        """A contiguous input, of the shape of its bit patterns."""
        return self._take(name, stored, Route.PLAIN)

    def take_routed(self, name: str, stored: Stored) -> Tensor:
        """A matrix, in memory as the route says; EXPANDED gives it a first dimension."""
        return self._take(name, stored, self._route)

    def take_batch(self, name: str, stored: Stored) -> Tensor:
        """What belongs to a routed matrix: contiguous, but expanded like it."""
        expanded = self._route is Route.EXPANDED
        return self._take(name, stored, Route.EXPANDED if expanded else Route.PLAIN)

    def _take(self, name: str, stored: Stored, route: Route) -> Tensor:
        arrange, look = _LAYOUTS[route]
        base = to_tensor(Stored(arrange(stored.bits), stored.dtype), self._device)
        self._taken.append((name, base, bytes_of(base)))
        return look(base)

    def shape(self, *shape: int) -> tuple[int, ...]:
        """The shape of a matrix, or of the batch that EXPANDED makes of it."""
        return (_COPIES, *shape) if self._route is Route.EXPANDED else shape

    def given(self, **results: tuple[tuple[int, ...], str]) -> dict[str, Tensor]:
        """Tensors for results by name, from (shape, dtype), if the route hands them over."""
        if self._route is not Route.OUT:
            return {}
        return {name: poisoned(*each, self._device) for name, each in results.items()}

    def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function with the backend pinned, and compare all inputs with what they were.

        Raises:
            ContractBreachError: naming an input that was changed, or what lies between its rows.
        """
        with kq.use_backend(self._backend_name):
            result = function(*args, **options)
        for name, base, before in self._taken:
            changed = np.flatnonzero(bytes_of(base) != before)
            if changed.size:
                raise ContractBreachError(f"the input {name} was changed at byte {changed[0]}")
        return result

    def result(
        self,
        name: str,
        tensor: Tensor,
        shape: tuple[int, ...],
        dtype: str,
        given: dict[str, Tensor] | None = None,
    ) -> Outputs:
        """Read a result.

        Args:
            name: of the result.
            tensor: what the function returned.
            shape: that it must have, but for the dimension of copies.
            dtype: that it must have.
            given: what was handed over for results.

        Raises:
            ContractBreachError: if it has another shape or dtype, is not the tensor that was handed
                over, or differs between copies.
        """
        expected = self.shape(*shape)
        found = str(tensor.dtype).removeprefix("torch.")
        if tuple(tensor.shape) != expected or found != dtype:
            raise ContractBreachError(
                f"{name} must be {dtype} of shape {expected}, got {found} of shape "
                f"{tuple(tensor.shape)}"
            )
        if given and tensor is not given[name]:
            raise ContractBreachError(f"{name} is not the tensor that was handed over")
        bits = from_tensor(tensor).bits
        if self._route is Route.EXPANDED:
            if (bits[1:] != bits[:1]).any():
                raise ContractBreachError(f"{name} differs between equal matrices of a batch")
            bits = bits[0]
        return {name: Stored(bits, dtype)}
