"""Every wrong argument raises the documented exception, names itself and changes nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import int8_arguments as int8
import numpy as np
import pytest

import kq_kernels


def quantize_arguments() -> dict:
    return {
        "x": np.ones((2, 64), np.float32),
        "codes": np.zeros((2, 32), np.uint8),
        "absmax": np.zeros((2, 1), np.float32),
        "rows": 2,
        "cols": 64,
        "blocksize": 64,
        "quant_type": "nf4",
    }


def linear_arguments() -> dict:
    return {
        "x": np.ones((2, 64), np.float32),
        "codes": np.zeros((3, 32), np.uint8),
        "absmax": np.ones((3, 1), np.float32),
        "bias": None,
        "out": np.zeros((2, 3), np.float32),
        "m": 2,
        "n": 3,
        "k": 64,
        "blocksize": 64,
        "quant_type": "nf4",
    }


def backward_arguments() -> dict:
    return {
        "grad": np.ones((2, 3), np.float32),
        "codes": np.zeros((3, 32), np.uint8),
        "absmax": np.ones((3, 1), np.float32),
        "out": np.zeros((2, 64), np.float32),
        "m": 2,
        "n": 3,
        "k": 64,
        "blocksize": 64,
        "quant_type": "nf4",
    }


def grouped_arguments() -> dict:
    """Three weights [2, 64]."""
    return {
        "x": np.ones((5, 64), np.float32),
        "codes": np.zeros((3, 2, 32), np.uint8),
        "absmax": np.ones((3, 2, 1), np.float32),
        "bias": None,
        "out": np.zeros((5, 2), np.float32),
        "counts": [4, 0, 1],
        "n": 2,
        "k": 64,
        "blocksize": 64,
        "quant_type": "nf4",
    }


def grouped_backward_arguments() -> dict:
    arguments = grouped_arguments()
    del arguments["x"], arguments["bias"]
    return arguments | {"grad": np.ones((5, 2), np.float32), "out": np.zeros((5, 64), np.float32)}


def adam_arguments() -> dict:
    code = np.linspace(-1, 1, 256).astype(np.float32)
    return {
        "rule": "adam",
        "params": [np.ones(8, np.float32)],
        "grads": [np.ones(8, np.float32)],
        "codes": [np.zeros(8, np.uint8), np.zeros(8, np.uint8)],
        "absmax": [np.zeros(1, np.float32), np.zeros(1, np.float32)],
        "code_maps": [code, code],
        "steps": [1],
        "hyper": [0.9, 0.99, 1e-8],
        "lr": 1e-3,
    }


def lars_arguments() -> dict:
    return {
        "rule": "lars",
        "params": [np.ones(8, np.float32)],
        "grads": [np.ones(8, np.float32)],
        "states": [np.zeros(8, np.float32)],
        "steps": [1],
        "hyper": [0.9, 0, 0, 1e-8, 0.01],
        "lr": 1e-3,
    }


def blockwise_arguments() -> dict:
    return {
        "x": np.ones((2, 64), np.float32),
        "code": np.linspace(-1, 1, 256).astype(np.float32),
        "codes": np.zeros((2, 64), np.uint8),
        "absmax": np.zeros((2, 1), np.float32),
        "rows": 2,
        "cols": 64,
        "blocksize": 64,
    }


def dequantize_arguments() -> dict:
    return {
        "codes": np.zeros((2, 32), np.uint8),
        "absmax": np.ones((2, 1), np.float32),
        "out": np.zeros((2, 64), np.float32),
        "rows": 2,
        "cols": 64,
        "blocksize": 64,
        "quant_type": "nf4",
    }


def read_only(a: np.ndarray) -> np.ndarray:
    a.flags.writeable = False
    return a


descending = np.linspace(1, -1, 256).astype(np.float32)
QUANTIZE, DEQUANTIZE, BLOCKWISE = quantize_arguments, dequantize_arguments, blockwise_arguments
LINEAR, BACKWARD = linear_arguments, backward_arguments
ADAM, LARS = adam_arguments, lars_arguments
INT8_QUANT, INT8_MATMUL = int8.quant_arguments, int8.matmul_arguments
INT8_MM_DEQUANT, INT8_LINEAR = int8.mm_dequant_arguments, int8.linear_arguments
GROUPED, GROUPED_BACKWARD = grouped_arguments, grouped_backward_arguments
# Arguments that are right, the name of one, a wrong value for it, the exception and its message.
WRONG = [
    (QUANTIZE, "x", np.ones((2, 63), np.float32), ValueError, "expected 128 elements, got 126"),
    (QUANTIZE, "x", np.ones((2, 64)), TypeError, "x: expected float32, bfloat16"),
    (QUANTIZE, "x", np.ones((64, 2), np.float32).T, TypeError, "contiguous"),
    (QUANTIZE, "x", [1.0], TypeError, "x: expected a row-major contiguous array"),
    (QUANTIZE, "x", (0, 128, "float32"), ValueError, "x: address is null"),
    (QUANTIZE, "x", (64, -1, "float32"), ValueError, "x: size -1 is negative"),
    (QUANTIZE, "x", (64, 128, "float64"), TypeError, "x: unknown dtype 'float64'"),
    (QUANTIZE, "x", (64, 128), TypeError, "address, size, dtype"),
    (QUANTIZE, "codes", np.zeros((2, 31), np.uint8), ValueError, "codes: expected 64 elements"),
    (QUANTIZE, "codes", np.zeros((2, 32), np.int8), TypeError, "codes"),
    (QUANTIZE, "codes", read_only(np.zeros((2, 32), np.uint8)), ValueError, "read-only"),
    (QUANTIZE, "absmax", np.zeros((2, 1), np.float16), TypeError, "absmax: expected float32"),
    (QUANTIZE, "rows", -2, ValueError, "rows: -2 is negative"),
    (QUANTIZE, "cols", -64, ValueError, "cols: -64 is negative"),
    (QUANTIZE, "rows", 2 ** 62, ValueError, "product exceeds 64 bits"),
    (QUANTIZE, "blocksize", 48, ValueError, "blocksize: expected a power of two"),
    (QUANTIZE, "blocksize", 16, ValueError, "blocksize"),
    (QUANTIZE, "blocksize", 8192, ValueError, "blocksize"),
    (QUANTIZE, "quant_type", "int4", ValueError, "quant_type: expected 'nf4' or 'fp4', got 'int4'"),
    (QUANTIZE, "threads", -1, ValueError, "threads"),
    (QUANTIZE, "row_stride", 63, ValueError, "row_stride: expected at least the 64 .* got 63"),
    (QUANTIZE, "row_stride", 0, ValueError, "row_stride: expected at least the 64 .* got 0"),
    (QUANTIZE, "row_stride", -64, ValueError, "row_stride: .* got -64"),
    (QUANTIZE, "row_stride", 65, ValueError, "x: expected 129 elements, got 128"),
    (QUANTIZE, "row_stride", 2 ** 63 - 1, ValueError, "x: the size of 2 rows, .* exceeds 64 bits"),
    (QUANTIZE, "row_stride", 2 ** 63, TypeError, "row_stride: int"),
    (QUANTIZE, "row_stride", 64.0, TypeError, "row_stride: int"),
    (DEQUANTIZE, "out", np.zeros((2, 65), np.float32), ValueError, "out"),
    (DEQUANTIZE, "absmax", np.zeros((2, 1), np.uint8), TypeError, "absmax: expected float32"),
    (DEQUANTIZE, "nested_absmax", np.ones(1, np.float32), ValueError, "give all three or none"),
    (BLOCKWISE, "code", np.zeros(255, np.float32), ValueError, "code: expected 256"),
    (BLOCKWISE, "code", descending, ValueError, "ascending order"),
    (BLOCKWISE, "code", np.full(256, np.nan, np.float32), ValueError, "finite"),
    (BLOCKWISE, "absmax", np.zeros(1, np.float32), ValueError, "absmax: expected 2"),
    (BLOCKWISE, "row_stride", 63, ValueError, "row_stride: expected at least the 64"),
    (BLOCKWISE, "row_stride", 65, ValueError, "x: expected 129 elements, got 128"),
    (BLOCKWISE, "row_stride", 2 ** 63 - 1, ValueError, "x: the size of 2 rows"),
    (BLOCKWISE, "blocksize", 0, ValueError, "blocksize: expected at least 1"),
    (LINEAR, "bias", np.zeros(3, np.float16), TypeError, "bias: expected float32, got float16"),
    (LINEAR, "bias", np.zeros(4, np.float32), ValueError, "bias: expected 3"),
    (LINEAR, "out", np.zeros((2, 3), np.float16), TypeError, "out: expected float32"),
    (LINEAR, "m", -1, ValueError, "m, n"),
    (LINEAR, "row_stride", 63, ValueError, "row_stride: expected at least the 64"),
    (LINEAR, "row_stride", 65, ValueError, "x: expected 129 elements, got 128"),
    (LINEAR, "row_stride", 2 ** 63 - 1, ValueError, "x: the size of 2 rows"),
    (LINEAR, "quant_type", "int4", ValueError, "quant_type: expected 'nf4' or 'fp4'"),
    (BACKWARD, "row_stride", 2, ValueError, "row_stride: expected at least the 3"),
    (BACKWARD, "row_stride", 4, ValueError, "grad: expected 7 elements, got 6"),
    (BACKWARD, "row_stride", 2 ** 63 - 1, ValueError, "grad: the size of 2 rows"),
    (BACKWARD, "m", -1, ValueError, "m, k"),
    (BACKWARD, "quant_type", "int4", ValueError, "quant_type: expected 'nf4' or 'fp4'"),
    (LINEAR, "codes", np.zeros((3, 31), np.uint8), ValueError, "codes"),
    (INT8_QUANT, "codes", np.zeros((2, 64), np.uint8), TypeError, "codes: expected int8"),
    (INT8_QUANT, "absmax", np.zeros(3, np.float32), ValueError, "absmax: expected 2"),
    (INT8_QUANT, "outliers", None, ValueError, "outliers: expected an array with a threshold"),
    (INT8_QUANT, "outliers", np.zeros(63, np.uint8), ValueError, "outliers: expected 64"),
    (INT8_QUANT, "threshold", 0.0, ValueError, "outliers: expected an array with a threshold"),
    (INT8_QUANT, "threshold", -1.0, ValueError, "threshold: expected a finite number >= 0, got -1"),
    (INT8_QUANT, "threshold", float("nan"), ValueError, "threshold: .* got nan"),
    (INT8_QUANT, "threshold", float("inf"), ValueError, "threshold: .* got inf"),
    (INT8_QUANT, "rows", -2, ValueError, "rows, cols: expected sizes >= 0"),
    (INT8_QUANT, "row_stride", 63, ValueError, "row_stride: expected at least the 64"),
    (INT8_MATMUL, "k", 2**17 + 1, ValueError, "k: expected at most 131072, .* got 131073"),
    (INT8_MATMUL, "b", np.ones((3, 63), np.int8), ValueError, "b: expected 192"),
    (INT8_MATMUL, "out", np.zeros((2, 3), np.float32), TypeError, "out: expected int32"),
    (INT8_MATMUL, "row_stride", 65, ValueError, "a: expected 129 elements, got 128"),
    (INT8_MM_DEQUANT, "bias", np.ones(3, np.float32), TypeError, "bias: expected float16"),
    (INT8_MM_DEQUANT, "row_absmax", np.ones(3, np.float32), ValueError, "row_absmax: expected 2"),
    (INT8_MM_DEQUANT, "col_absmax", np.ones(3, np.float16), TypeError, "col_absmax: expected"),
    (INT8_LINEAR, "k", 2**17 + 1, ValueError, "k: expected at most 131072, .* got 131073"),
    (INT8_LINEAR, "weight", np.ones((3, 64), np.uint8), TypeError, "weight: expected int8"),
    (INT8_LINEAR, "absmax", np.ones((3, 2), np.float32), ValueError, "absmax: expected 3"),
    (INT8_LINEAR, "threshold", -1.0, ValueError, "threshold: expected a finite number >= 0"),
    (INT8_LINEAR, "out", np.zeros((2, 3), np.float16), TypeError, "out: expected float32"),
    (INT8_LINEAR, "threads", -1, ValueError, "threads"),
    (GROUPED, "counts", [4, 0, -1], ValueError, "counts: expected numbers of rows >= 0"),
    (GROUPED, "counts", [2 ** 62, 2 ** 62, 0], ValueError, "counts: .* a sum below 2\\^63"),
    (GROUPED, "counts", [4, 0, 2], ValueError, "x: expected 384 elements, got 320"),
    (GROUPED, "counts", [4, 1], ValueError, "codes: expected 128 elements, got 192"),
    (GROUPED, "counts", 5, TypeError, "counts: "),
    (GROUPED, "n", -1, ValueError, "counts, n: expected sizes >= 0"),
    (GROUPED, "k", -1, ValueError, "cols: -1 is negative"),
    (GROUPED, "absmax", np.ones((2, 1), np.float32), ValueError, "absmax: expected 6"),
    (GROUPED, "bias", np.zeros(2, np.float32), ValueError, "bias: expected 6"),
    (GROUPED, "bias", np.zeros((3, 2), np.float16), TypeError, "bias: expected float32"),
    (GROUPED, "out", np.zeros((4, 2), np.float32), ValueError, "out: expected 10"),
    (GROUPED, "threads", -1, ValueError, "threads"),
    (GROUPED, "row_stride", 65, ValueError, "x: expected 324 elements, got 320"),
    (GROUPED, "quant_type", "int4", ValueError, "quant_type: expected 'nf4' or 'fp4'"),
    (GROUPED_BACKWARD, "counts", [4, 0, -1], ValueError, "counts: expected numbers of rows >= 0"),
    (GROUPED_BACKWARD, "counts", [4, 0, 2], ValueError, "grad: expected 12 elements, got 10"),
    (GROUPED_BACKWARD, "out", np.zeros((5, 63), np.float32), ValueError, "out: expected 320"),
    (GROUPED_BACKWARD, "row_stride", 1, ValueError, "row_stride: expected at least the 2"),
    (ADAM, "rule", "adamw", ValueError, "rule: expected one of 'sgd', 'momentum', .* got 'adamw'"),
    (ADAM, "rule", "sgd", ValueError, "hyper: expected 0 numbers for rule 'sgd', got 3"),
    (ADAM, "grads", [], ValueError, "grads: expected a list of 1, got 0"),
    (ADAM, "grads", [np.ones(8, np.float16)], TypeError, "grads: expected float32"),
    (ADAM, "grads", [np.ones(7, np.float32)], ValueError, "grads: expected 8"),
    (ADAM, "params", [read_only(np.ones(8, np.float32))], ValueError, "params: .* read-only"),
    (ADAM, "codes", [np.zeros(8, np.uint8)], ValueError, "codes: expected a list of 2"),
    (ADAM, "absmax", [np.zeros(2, np.float32)] * 2, ValueError, "absmax: expected 1"),
    (ADAM, "code_maps", [descending, descending], ValueError, "code_maps"),
    (ADAM, "hyper", [0.9, 0.99], ValueError, "hyper: expected 3 numbers for rule 'adam', got 2"),
    (ADAM, "hyper", [1.0, 0.9, 0], ValueError, "beta1: expected a number that is at least 0 and"),
    (ADAM, "hyper", [0.9, -0.1, 0], ValueError, "beta2: expected a number"),
    (ADAM, "hyper", [0.9, 0.9, -1], ValueError, "eps: expected a number that is finite and not"),
    (ADAM, "lr", float("nan"), ValueError, "lr: expected a number that is finite"),
    (ADAM, "weight_decay", float("inf"), ValueError, "weight_decay: expected a number"),
    (ADAM, "grad_scale", 0.0, ValueError, "grad_scale: expected a number that is finite and above"),
    (ADAM, "rounding", "up", ValueError, "rounding: expected 'nearest', 'stochastic' or .* 'up'"),
    (ADAM, "rounding", "stochastic", ValueError, "seeds: expected a list of 1, got 0"),
    (ADAM, "seeds", [1], ValueError, "seeds: expected a list of 0, got 1"),
    (ADAM, "corrections", [np.zeros(8, np.int8)], ValueError, "corrections: expected a list of 0"),
    (ADAM, "steps", [0], ValueError, "steps: expected numbers from 1, got 0"),
    (ADAM, "steps", [1, 2], ValueError, "steps: expected a list of 1, got 2"),
    (LARS, "decoupled", True, ValueError, "decoupled: expected False for rule 'lars', got True"),
    (LARS, "states", [], ValueError, "states: expected a list of 1, got 0"),
    (LARS, "states", [np.zeros(8, np.float16)], TypeError, "states: expected float32"),
    (LARS, "hyper", [0.9, 0, 2, 0, 1], ValueError, "nesterov: expected a number that is 0 or 1"),
]  # fmt: skip
FUNCTIONS = {
    quantize_arguments: kq_kernels.quantize_4bit,
    dequantize_arguments: kq_kernels.dequantize_4bit,
    blockwise_arguments: kq_kernels.quantize_blockwise,
    linear_arguments: kq_kernels.linear_4bit,
    backward_arguments: kq_kernels.linear_4bit_backward,
    int8.quant_arguments: kq_kernels.int8_vectorwise_quant,
    int8.matmul_arguments: kq_kernels.int8_linear_matmul,
    int8.mm_dequant_arguments: kq_kernels.int8_mm_dequant,
    int8.linear_arguments: kq_kernels.int8_linear,
    grouped_arguments: kq_kernels.linear_4bit_grouped,
    grouped_backward_arguments: kq_kernels.linear_4bit_grouped_backward,
    adam_arguments: kq_kernels.optimizer_step_8bit,
    lars_arguments: kq_kernels.optimizer_step_32bit,
}


def contents(arguments: dict) -> list[bytes]:
    flat = [
        a for value in arguments.values() for a in (value if isinstance(value, list) else [value])
    ]
    return [a.tobytes() for a in flat if isinstance(a, np.ndarray)]


@pytest.mark.parametrize(("make", "name", "value", "error", "message"), WRONG)
def test_wrong_argument(make, name, value, error, message) -> None:
    arguments = make() | {name: value}
    before = contents(arguments)
    with pytest.raises(error, match=message.replace("(", r"\(")):
        FUNCTIONS[make](**arguments)
    assert contents(arguments) == before


@pytest.mark.parametrize("make", FUNCTIONS)
def test_the_arguments_are_right_otherwise(make) -> None:
    FUNCTIONS[make](**make())


def run(isa: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import kq_kernels; print(kq_kernels.isa())"],
        env={**os.environ, "KQ_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", kq_kernels.available_isas())
def test_the_environment_forces_an_instruction_set(name) -> None:
    assert run(name).stdout.strip() == name


def test_an_unknown_instruction_set_in_the_environment_is_refused() -> None:
    result = run("mmx")
    assert result.returncode != 0
    assert "'mmx' cannot run here; available: scalar" in result.stderr


def test_the_instruction_set_can_be_set_and_comes_back() -> None:
    before = kq_kernels.isa()
    with kq_kernels.use_isa("scalar"):
        assert kq_kernels.isa() == "scalar"
    assert kq_kernels.isa() == before
    with pytest.raises(ValueError, match="'sse' cannot run"):
        kq_kernels.set_isa("sse")
    assert kq_kernels.isa() == before
    assert kq_kernels.build_info()["isa"] == before


def test_the_build_is_described() -> None:
    info = kq_kernels.build_info()
    assert all(isinstance(value, str) for value in info.values())
    assert info["version"] == kq_kernels.__version__
    assert re.fullmatch(r"\w+ \d+(\.\d+)+", info["compiler"])
    assert re.fullmatch(r"\d+\.\d+", info["openmp"])
    own = {"scalar": "-ffp-contract=off", "avx2": "-mavx2", "avx512": "-mavx512f"}
    own["vnni"] = "-mavx512vnni"
    own["amx"] = own["avx512"]  # tiles need no flag
    for isa in kq_kernels.available_isas():
        flags = info[f"flags_{isa}"].split()
        assert {"-O3", own[isa]} <= set(flags)


def test_nothing_but_the_standard_library_is_imported() -> None:
    code = (
        "import sys, kq_kernels\n"
        "print([m for m in ('torch', 'numpy', 'nanobind') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
