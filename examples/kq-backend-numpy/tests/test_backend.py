"""What this package promises by itself; `test_conformance.py` does the rest."""

import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from kq_backend_numpy import load

X = [0.5, -2.0, 0.0, 1.0, 0.1]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def backend():
    return load()


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_worked_out_by_hand(backend, dtype):
    packed, absmax = torch.empty(1, 3, dtype=torch.uint8), torch.empty(1, 1)
    backend.quantize_4bit(
        torch.tensor([X], dtype=dtype), packed, absmax, quant_type="nf4", blocksize=64
    )
    assert absmax.item() == 2.0
    assert packed.tolist() == [[0xA0, 0x7C, 0x87]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_may_lie_apart(backend, dtype):
    wide = torch.full((3, 8), torch.nan, dtype=dtype)
    wide[:, :5] = torch.tensor(X)
    results = []
    for A in (wide[:, :5], wide[:, :5].contiguous()):
        codes, absmax = torch.empty(3, 5, dtype=torch.uint8), torch.empty(3, 3)
        backend.quantize_blockwise(A, torch.linspace(-1, 1, 256), codes, absmax, blocksize=2)
        results.append((codes, absmax))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("dtype", "device", "quant_type", "blocksize"),
    [
        (torch.float64, "cpu", "nf4", 64),
        (torch.float32, "meta", "nf4", 64),
        (torch.float32, "cpu", "int4", 64),
        (torch.float32, "cpu", "nf4", 48),
    ],
)
def test_what_is_not_declared_is_refused(backend, dtype, device, quant_type, blocksize):
    packed, absmax = torch.zeros(1, 32, dtype=torch.uint8), torch.zeros(1, 1)
    x = torch.ones(1, 64, dtype=dtype, device=device)
    with pytest.raises(NotImplementedError, match="quantize_4bit"):
        backend.quantize_4bit(x, packed, absmax, quant_type=quant_type, blocksize=blocksize)
    assert not packed.any()
    assert not absmax.any()


def test_version_is_that_of_the_package(backend):
    assert backend.version == version("kq-backend-numpy")


def test_needs_numpy_only():
    check = "import sys, kq_backend_numpy; print({name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout
    assert "numpy" in loaded
    assert not any(name in loaded for name in ("torch", "kq_conformance", "kq_functional"))
