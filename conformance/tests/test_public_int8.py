"""Faults of the public int8 functions, and what the cases say of them."""

import pytest
import torch

import kq_functional as kq
from kq_conformance.adapter import Adapter
from kq_conformance.bounds import Strictness
from kq_conformance.cases import by_id
from kq_conformance.discovery import find_backend
from kq_conformance.floats import Stored
from kq_conformance.public import PublicSubject
from kq_conformance.runner import Finding, Settings, Verdict, run_case
from kq_conformance.subject import Route

QUANT = "int8_vectorwise_quant/int8/float32/public"
TORCH = find_backend("torch")


def ask(case_id: str) -> Finding:
    return run_case(TORCH, Adapter(TORCH, "cpu", "torch"), by_id(case_id), Settings())


@pytest.fixture
def faked(monkeypatch):
    """Replace a public function by one that gets the original and the arguments."""

    def put(name, fake):
        original = getattr(kq, name)
        monkeypatch.setattr(kq, name, lambda *args, **options: fake(original, *args, **options))

    return put


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda columns: columns.flip(0), "the outlier columns must be ascending indices, got "),
        (lambda columns: columns.int(), "the outlier columns must be int64 [J], got "),
        (lambda columns: None, "the outlier columns must be int64 [J], got None"),  # noqa: ARG005
        (lambda columns: columns + 100, "the outlier columns must be ascending indices, got "),
    ],
)
def test_columns_must_be_indices(faked, change, message):
    def fake(original, A, threshold):
        codes, absmax, columns = original(A, threshold)
        return codes, absmax, change(columns)

    faked("int8_vectorwise_quant", fake)
    finding = ask(f"{QUANT}/plain/outliers")
    assert finding.verdict is Verdict.FAIL
    assert finding.message.startswith(message)


def test_columns_without_a_threshold(faked):
    def fake(original, A, threshold):
        codes, absmax, _ = original(A, threshold)
        return codes, absmax, torch.zeros(0, dtype=torch.int64)

    faked("int8_vectorwise_quant", fake)
    message = ask(f"{QUANT}/plain/random").message
    assert message == "without a threshold the outlier columns must be None"


def test_strides_ignored(faked):
    def fake(original, x, *others):
        return original(x.as_strided(x.shape, (x.shape[-1], 1)), *others)

    faked("int8_linear", fake)
    name = "int8_linear/int8/float32/public/{}/m5-n33-k257/outliers/bias"
    assert ask(name.format("plain")).verdict is Verdict.PASS
    for route in ("transposed", "sliced"):
        assert ask(name.format(route)).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        (lambda original, x, **o: original(x, **o).float(), "autocast to torch.bfloat16 gives"),
        (
            lambda original, x, **o: original(x if x.dtype == torch.bfloat16 else x * 1.5, **o),
            "the product under autocast is not that of its type",
        ),
    ],
)
def test_autocast_that_differs(faked, fake, message):
    def under_autocast(original, x, **others):
        if torch.is_autocast_enabled("cpu"):
            return fake(original, x, **others)
        return original(x, **others)

    faked("int8_linear", under_autocast)
    assert ask("int8_linear/int8/bfloat16/public/autocast").message.startswith(message)


def failures(problem, outputs, name, place):
    """Which results are wrong when one bit of one of them is."""
    assert all(each.passed for each in problem.judge(outputs, Strictness.EXACT))
    bits = outputs[name].bits.copy()
    bits.reshape(-1)[place] ^= 8
    changed = outputs | {name: Stored(bits, outputs[name].dtype)}
    return [each.quantity for each in problem.judge(changed, Strictness.EXACT) if not each.passed]


@pytest.mark.parametrize("name", ["out", "grad_x", "grad_bias"])
def test_gradients_are_judged(name):
    problem = by_id("int8_linear/int8/bfloat16/public/bias-gradient").problem(0)
    outputs = problem.call(PublicSubject("torch", "cpu", Route.PLAIN))
    assert failures(problem, outputs, name, 5) == [name]


@pytest.mark.parametrize("name", ["codes", "absmax", "col_codes", "col_absmax", "outliers"])
@pytest.mark.parametrize("kind", ["random", "outliers"])
def test_rows_and_columns_are_judged(name, kind):
    problem = by_id(f"{QUANT}/double-quant/{kind}").problem(0)
    outputs = problem.call(PublicSubject("torch", "cpu", Route.PLAIN))
    assert ("outliers" in outputs) == (kind == "outliers")
    if name in outputs:
        assert failures(problem, outputs, name, 1) == [name]
