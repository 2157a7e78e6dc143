"""The public functions of kq-functional as a `Subject`: how users reach a backend.

Importing this package needs kq-functional, which the suite otherwise does without.

Raises:
    RouteMissingError: at import, if kq-functional is not installed.
"""

from kq_conformance.subject import RouteMissingError

try:
    import kq_functional  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "kq_functional":
        raise
    raise RouteMissingError("kq-functional is not installed") from None

from kq_conformance.public.subject import PublicSubject

__all__ = ["PublicSubject"]
