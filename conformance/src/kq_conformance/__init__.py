"""A float64 reference and derived bounds for k-bit quantization backends.

``kq_conformance.reference`` defines every operation in NumPy float64, ``kq_conformance.bounds``
says which answers a correct backend may give, ``kq_conformance.cases`` lists the questions, and the
command ``kq-conformance`` asks them. Importing the package imports NumPy and nothing else; torch is
imported only by ``kq_conformance.adapter``, when a backend is run.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
FORMAT_VERSION = 1
"""Version of docs/FORMAT.md that the reference defines."""
