"""The suite as a pytest plugin: `pytest --pyargs kq_conformance --kq-backend NAME`.

Each case is a test; `kq_conformance.asker` says what its outcomes mean. The plugin is loaded with
every run of pytest where the package is installed, so that it imports little until it is needed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kq_conformance.asker import Asker

_SUITE = Path(__file__).with_name("test_backend.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    group = parser.getgroup("kq-conformance", "conformance of a kq backend")
    group.addoption("--kq-backend", help="entry-point name, or package.module:object")
    group.addoption("--kq-profile", default="core", choices=("quick", "core", "full"))
    group.addoption("--kq-select", default="*", help="glob over case ids")
    group.addoption("--kq-rules", default="exact", choices=("exact", "margin"))
    group.addoption("--kq-seed", default=0, type=int, help="other inputs for the same cases")
    group.addoption("--kq-device", default="cpu", help="device type of the tensors")
    group.addoption("--kq-timeout", default=60.0, type=float, help="seconds for a case")
    group.addoption("--kq-waivers", type=Path, help="file of failures that are accepted")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run the suite on nothing, or on what cannot be loaded."""
    if config.getoption("kq_backend") is None:
        if "kq_conformance" in config.args:
            raise pytest.UsageError(
                "kq_conformance needs --kq-backend NAME or package.module:object"
            )
        return
    from kq_conformance.asker import check_options

    check_options(config)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without a backend the suite is no test of anything."""
    return (collection_path == _SUITE and config.getoption("kq_backend") is None) or None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each case."""
    if "kq_case_id" in metafunc.fixturenames:
        from kq_conformance.asker import chosen_ids

        metafunc.parametrize("kq_case_id", chosen_ids(metafunc.config))


@pytest.fixture(scope="session")
def kq_asker(pytestconfig: pytest.Config) -> Iterator["Asker"]:
    """The backend of the command line."""
    from kq_conformance.asker import open_asker

    with open_asker(pytestconfig) as asker:
        yield asker
