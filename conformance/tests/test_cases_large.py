"""The cases of billions of elements, at a size that a test can afford."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from kq_conformance.adapter import Adapter
from kq_conformance.bounds import Strictness
from kq_conformance.cases import large, large_int8
from kq_conformance.cases.dequantizers import Dequantize4bit, DequantizeBlockwise
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.int8_problems import (
    Int8Dequant,
    Int8Linear,
    Int8LinearBackward,
    Int8Matmul,
    Int8MmDequant,
    Int8Quant,
)
from kq_conformance.cases.large import large_cases, windows
from kq_conformance.cases.large_int8 import large_int8_cases
from kq_conformance.cases.large_linear import LargeLinear, correlate
from kq_conformance.cases.optimizer_problems import Step8bit
from kq_conformance.cases.quantizers import Quantize4bit, QuantizeBlockwise
from kq_conformance.reference_backend import ReferenceBackend

SMALL = {
    "quantize_4bit": lambda draw: large.encoded_4bit(draw, 9, 133, 64),
    "quantize_4bit without tail": lambda draw: large.encoded_4bit(draw, 3, 128, 64),
    "quantize_blockwise": lambda draw: large.encoded_blockwise(draw, 9, 513, 256),
    "dequantize_4bit": lambda draw: large.decoded_4bit(draw, 9, 134, 64),
    "dequantize_blockwise": lambda draw: large.decoded_blockwise(draw, 9, 513, 256),
    "linear_4bit": lambda draw: large.product(draw, 9, 134, 64, gradient=False),
    "linear_4bit_backward": lambda draw: large.product(draw, 9, 134, 64, gradient=True),
    "optimizer_step_8bit": lambda draw: large.step_8bit(draw, 5, 512),
    "int8_vectorwise_quant": lambda draw: large_int8.encoded_int8(draw, 9, 133),
    "int8_vectorwise_dequant": lambda draw: large_int8.decoded_int8(draw, 9, 133),
    "int8_mm_dequant": lambda draw: large_int8.scaled_int8(draw, 9, 133),
    "int8_linear_matmul": lambda draw: large_int8.matmul_int8(draw, 9, 133),
    "int8_linear": lambda draw: large_int8.linear_int8(draw, 9, 133),
    "int8_linear_backward": lambda draw: large_int8.linear_backward_int8(draw, 9, 133),
}


@pytest.mark.parametrize("name", SMALL)
def test_one_wrong_element_anywhere_fails(name):
    asked = SMALL[name](Draw(1))
    outputs = asked.call(Adapter(ReferenceBackend()))
    assert all(each.passed for each in asked.judge(outputs, Strictness.EXACT))
    rows = len(next(iter(outputs.values())).bits)
    for stored in outputs.values():
        flat = stored.bits.reshape(-1)
        for place in {0, flat.size // 2, flat.size - 1}:
            flip = 1 << (8 * flat.itemsize - 2)
            flat[place] ^= flip
            failed = [each for each in asked.judge(outputs, Strictness.EXACT) if not each.passed]
            assert failed
            assert failed[0].worst.place[0] in (0, place * rows // flat.size)
            flat[place] ^= flip
    assert all(each.passed for each in asked.judge(outputs, Strictness.EXACT))


def test_a_wrong_row_is_found_by_either_rule():
    asked = large.encoded_blockwise(Draw(1), 4, 513, 256)
    outputs = asked.call(Adapter(ReferenceBackend()))
    x = asked.whole.x.bits
    assert len({row.tobytes() for row in x}) == 4  # no two rows are the same
    # Nothing is near a midpoint there.
    outputs["codes"].bits[2, 100] ^= 1
    for strictness in Strictness:
        judged = asked.judge(outputs, strictness)
        assert [each.worst.place for each in judged if not each.passed] == [(2, 100)]


def test_windows_are_rows_of_one_array():
    short = np.arange(20)
    assert windows(short, 3, 8, 4).tolist() == [list(range(s, s + 8)) for s in (0, 4, 8)]


def test_correlations():
    rng = np.random.default_rng(0)
    short, long = rng.normal(size=(5, 3)), rng.normal(size=(11, 3))
    expected = [(short * long[s : s + 5]).sum(axis=0) for s in range(7)]
    assert np.allclose(correlate(short, long), expected, rtol=0, atol=1e-13)


def elements(problem: Any) -> int:
    """Of the largest tensor of a call."""
    match problem:
        case Quantize4bit() | QuantizeBlockwise():
            return problem.x.bits.size
        case Dequantize4bit() | LargeLinear():
            return 2 * problem.weights.packed.size
        case DequantizeBlockwise():
            return problem.codes.bits.size
        case Int8Quant():
            return problem.x.bits.size
        case Int8Dequant():
            return problem.codes.bits.size
        case Int8MmDequant():
            return problem.a.bits.size
        case Int8Matmul():
            return problem.b.bits.size
        case Int8Linear() | Int8LinearBackward():
            return problem.weight.codes.bits.size
        case Step8bit():
            return problem.params[0].bits.size
    raise AssertionError(problem)


@pytest.mark.parametrize(
    "case", [*large_cases(), *large_int8_cases()], ids=lambda case: case.demand.op
)
def test_tensors_are_large_and_their_inputs_are_not(case):
    assert 2**30 < case.memory < 14e9
    assert case.id.startswith(case.demand.op)
    tracemalloc.start()
    asked = case.problem(0)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1e8
    assert elements(getattr(asked, "whole", asked)) > 2**31
