"""The package as others meet it: by the name of its entry point."""

import json
import subprocess
import sysconfig

import pytest
import torch

import kq_functional as kq

UNDECLARED = {
    *("linear_4bit_grouped", "linear_4bit_grouped_backward"),
    *("int8_vectorwise_quant", "int8_vectorwise_dequant", "int8_linear_matmul"),
    *("int8_mm_dequant", "int8_linear", "int8_linear_backward"),
}


def test_suite(tmp_path):
    """`quick` takes seconds; run `--profile core -j 2` before a release."""
    report = tmp_path / "report.json"
    command = f"{sysconfig.get_path('scripts')}/kq-conformance"
    arguments = ["run", "--backend", "numpy", "--profile", "quick", "-j", "2"]
    arguments += ["--json", str(report)]
    done = subprocess.run([command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = json.loads(report.read_text())["cases"]
    silent = {each["id"].partition("/")[0] for each in cases if each["verdict"] == "unsupported"}
    assert silent == UNDECLARED


def test_what_is_not_declared_is_refused_or_left_to_others():
    packed, state = kq.quantize_4bit(torch.randn(2, 8, 64))
    x = torch.randn(3, 64)
    with kq.use_backend("numpy"), pytest.raises(NotImplementedError, match="linear_4bit_grouped"):
        kq.linear_4bit_grouped(x, packed, state, [1, 2])
    assert kq.linear_4bit_grouped(x, packed, state, [1, 2]).shape == (3, 8)


def test_layers_compute_with_it():
    weight, x = torch.randn(48, 130), torch.randn(2, 3, 130, requires_grad=True)
    results = []
    for name in ("numpy", "torch"):
        with kq.use_backend(name):
            packed, state = kq.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
            y = kq.linear_4bit(x, packed, state)
            (gradient,) = torch.autograd.grad(y.sum(), x)
            results.append((packed, kq.dequantize_4bit(packed, state), y, gradient))
    exact, near = zip(*((each[:2], each[2:]) for each in results), strict=True)
    torch.testing.assert_close(*exact, rtol=0, atol=0)
    torch.testing.assert_close(*near)
