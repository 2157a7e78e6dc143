"""The reference behind the backend contract: memory, refusals, and the quick profile."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from kq_conformance import reference
from kq_conformance.adapter import Adapter
from kq_conformance.cases import Profile, select
from kq_conformance.reference_backend import backend, memory
from kq_conformance.runner import Settings, Verdict, run_case


class ArrayTensor:
    """As much of a tensor as the backend uses, over a NumPy array."""

    def __init__(self, array: np.ndarray, dtype: str) -> None:
        self.array, self.dtype, self.shape = array, dtype, array.shape

    def data_ptr(self):
        return self.array.ctypes.data

    def stride(self):
        return tuple(step // self.array.itemsize for step in self.array.strides)

    def element_size(self):
        return self.array.itemsize

    def numel(self):
        return self.array.size


def test_needs_no_torch():
    x = ArrayTensor(np.array([[1.0, -2.0, 0.5]], dtype=np.float32), "float32")
    packed = ArrayTensor(np.zeros((1, 2), dtype=np.uint8), "uint8")
    absmax = ArrayTensor(np.zeros((1, 1), dtype=np.float32), "float32")
    backend.quantize_4bit(x, packed, absmax, quant_type="nf4", blocksize=64)
    expected = reference.quantize_4bit(x.array.astype(np.float64), "nf4", 64)
    np.testing.assert_array_equal(packed.array, expected[0])
    np.testing.assert_array_equal(absmax.array, expected[1])


def test_imports_no_torch():
    code = "import sys, kq_conformance.reference_backend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_may_lie_apart(dtype):
    wide = torch.arange(24.0).view(3, 8).to(dtype)
    assert backend.load(wide[:, 2:5]).tolist() == wide[:, 2:5].tolist()
    backend.store(wide[1:, 3:5], np.full((2, 2), -1.0))
    assert wide[:, 2].tolist() == [2, 10, 18]
    assert wide[:, 3].tolist() == [3, -1, -1]
    assert wide[:, 5].tolist() == [5, 13, 21]


def test_shapes_without_elements_or_dimensions():
    assert backend.load(torch.empty(0, 5)).shape == (0, 5)
    assert backend.codes(torch.empty(3, 0, dtype=torch.uint8)).shape == (3, 0)
    assert backend.load(torch.tensor(2.5)) == 2.5
    backend.store(torch.empty(0, 5), np.zeros((0, 5)))


def test_memory_beside_a_tensor():
    around = torch.arange(8, dtype=torch.uint8)
    assert memory(around[2:4]).tolist() == [2, 3]
    assert memory(around[2:4], before=1, after=2).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quant_type": "nf3", "blocksize": 64}, "quant_type must be one of .*, got 'nf3'"),
        ({"quant_type": "nf4", "blocksize": 48}, "blocksize must be one of .*, got 48"),
    ],
)
def test_refuses_before_it_writes(options, message):
    x, packed, absmax = torch.ones(2, 4), torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, 1)
    with pytest.raises(NotImplementedError, match=message):
        backend.quantize_4bit(x, packed, absmax, **options)
    assert not packed.any()
    assert not absmax.any()


def test_refuses_unknown_rules_and_empty_blocks():
    with pytest.raises(NotImplementedError, match=r"rule must be one of .*, got 'nadam'"):
        backend.optimizer_step_32bit("nadam", [], [], [], [])
    with pytest.raises(NotImplementedError, match="blocksize must be at least 1, got 0"):
        backend.quantize_blockwise(None, None, None, None, blocksize=0)


def test_refuses_what_is_no_threshold_and_too_many_products():
    for threshold in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"threshold must be finite .*, got {threshold}"):
            backend.int8_vectorwise_quant(None, None, None, None, threshold=threshold)
    codes, out = torch.zeros(1, 131073, dtype=torch.int8), torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(ValueError, match="K must be at most 131072, got 131073"):
        backend.int8_linear_matmul(codes, codes, out)


def test_passes_quick():
    subject = Adapter(backend)
    found = [run_case(backend, subject, case, Settings()) for case in select(Profile.QUICK)]
    assert [each.case_id for each in found if each.verdict is not Verdict.PASS] == []
