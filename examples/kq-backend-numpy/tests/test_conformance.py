"""The package as others meet it: by the name of its entry point."""

import subprocess
import sysconfig

import torch

import kq_functional as kq


def test_suite():
    """`quick` takes seconds; run `--profile core -j 2` before a release."""
    command = f"{sysconfig.get_path('scripts')}/kq-conformance"
    arguments = ["run", "--backend", "numpy", "--profile", "quick", "-j", "2"]
    done = subprocess.run([command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unsupported" not in done.stdout


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
