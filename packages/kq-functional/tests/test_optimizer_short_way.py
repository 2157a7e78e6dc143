"""Steps in plain eager mode go past the checks of the op if the backend looks for itself."""

from __future__ import annotations

import pytest
import torch

import kq_functional as kq
from kq_functional import ops, registry

pytest.importorskip("kq_kernels")
OPTIONS = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99}


def step(backend: str) -> None:
    param, grad, state = torch.randn(3, 300)
    with torch.no_grad(), kq.use_backend(backend):
        kq.optimizer_step_32bit("lion", [param], [grad], [state], [1], **OPTIONS)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that came through an op."""
    found: list[str] = []
    real = ops.optimizer.choose

    def choose(query):
        found.append(query.op)
        return real(query)

    monkeypatch.setattr(ops.optimizer, "choose", choose)
    return found


def test_a_backend_that_checks_steps_is_called_at_once(calls):
    assert registry.load_or_raise("native").checks_steps
    step("native")
    assert calls == []


def test_others_are_called_through_the_op(calls):
    step("torch")
    assert calls == ["optimizer_step_32bit"]


def test_what_is_refused_goes_through_the_op(calls):
    strided = torch.randn(600)[::2]
    dense = strided.contiguous()
    grad = dense.flip(0)
    for param in (strided, dense):
        with torch.no_grad(), kq.use_backend("native"):
            kq.optimizer_step_32bit("lion", [param], [grad], [torch.ones(300)], [1], **OPTIONS)
    assert torch.equal(strided, dense)
    assert calls == ["optimizer_step_32bit"]


def test_the_version_of_a_parameter_counts(calls):
    param = torch.randn(300)
    version = param._version
    with torch.no_grad():
        kq.optimizer_step_32bit("lion", [param], [param.clone()], [torch.ones(300)], [1], **OPTIONS)
    assert calls == []
    assert param._version > version
