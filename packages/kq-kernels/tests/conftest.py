from __future__ import annotations

from collections.abc import Iterator

import pytest

import kq_kernels


@pytest.fixture(params=kq_kernels.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set that this processor can run, one after the other."""
    with kq_kernels.use_isa(request.param):
        yield request.param
