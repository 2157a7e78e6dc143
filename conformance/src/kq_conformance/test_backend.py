"""What `pytest --pyargs kq_conformance` collects; see `kq_conformance.plugin`."""

from kq_conformance.asker import Asker


def test_case(kq_asker: Asker, kq_case_id: str) -> None:
    """The backend passes this case."""
    kq_asker.check(kq_case_id)
