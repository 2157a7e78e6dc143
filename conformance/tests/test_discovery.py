"""Finding a backend, and reading what it declares."""

from dataclasses import replace

import pytest

from kq_conformance.cases import Demand
from kq_conformance.discovery import BackendError, declares, find_backend
from kq_conformance.reference_backend import Capability, backend


def test_by_object():
    assert find_backend("kq_conformance.reference_backend:backend") is backend


def test_by_loader():
    assert find_backend("kq_conformance.reference_backend:ReferenceBackend").name == "reference"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "is not registered in the entry-point group 'kq.backends'"),
        ("no.such:thing", "No module named 'no'"),
        ("kq_conformance.reference_backend:nothing", "has no attribute 'nothing'"),
        ("kq_conformance.floats:FORMATS", "is a dict without name, version, capabilities"),
    ],
)
def test_what_cannot_be_found(name, message):
    with pytest.raises(BackendError, match=message):
        find_backend(name)


def test_declarations():
    demand = Demand("linear_4bit", "bfloat16", "nf4", 64)
    declared = Capability(
        "linear_4bit", frozenset({"bfloat16"}), None, frozenset({"nf4"}), frozenset({64})
    )
    assert declares([declared], demand, "cpu")
    for change in (
        {"op": "quantize_4bit"},
        {"dtype": "float16"},
        {"quant_type": "fp4"},
        {"blocksize": 128},
        {"rule": "lion"},
    ):
        assert not declares([declared], replace(demand, **change), "cpu")
    assert not declares([replace(declared, devices=frozenset({"cuda"}))], demand, "cpu")
