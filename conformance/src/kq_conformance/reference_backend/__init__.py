"""A backend whose operations are the float64 reference, stored in the caller's tensors.

It is the first client of the suite, and the healthy body of the mutants (`kq_conformance.mutants`):
each step of an operation is a small method, so that a mistake is one method. Tensors are read and
written through their address, shape and strides; neither torch nor a kq package is needed.
"""

from kq_conformance.reference_backend.backend import Capability, ReferenceBackend, backend
from kq_conformance.reference_backend.memory import format_of, memory

__all__ = ["Capability", "ReferenceBackend", "backend", "format_of", "memory"]
