"""Ids, inputs and coverage of the cases; none of this needs torch."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from kq_conformance.cases import Mode, Profile, select
from kq_conformance.cases.codebooks import CODE_MAPS
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.matrices import MATRICES, anchored_sweep, midpoints, natural_sweep
from kq_conformance.floats import FORMATS, values_of
from kq_conformance.reference import FOUR_BIT_BLOCKSIZES, codebook_8bit

CORE = list(select(Profile.CORE))


def test_ids_are_unique():
    counted = Counter(case.id for case in select(Profile.FULL))
    assert max(counted.values()) == 1


def test_profiles_are_nested():
    quick, core, full = ({case.id for case in select(each)} for each in Profile)
    assert quick < core < full


def test_core_covers_every_operation_type_and_block_size():
    demands = {case.demand for case in CORE}
    for op in ("quantize_4bit", "dequantize_4bit", "linear_4bit", "linear_4bit_backward"):
        covered = {(d.dtype, d.quant_type, d.blocksize) for d in demands if d.op == op}
        assert covered == {
            (dtype, quant_type, blocksize)
            for dtype in FORMATS
            for quant_type in ("nf4", "fp4")
            for blocksize in FOUR_BIT_BLOCKSIZES
        }
    for op in (
        "quantize_blockwise",
        "dequantize_blockwise",
        "optimizer_step_8bit",
        "optimizer_step_32bit",
    ):
        assert {d.dtype for d in demands if d.op == op} == set(FORMATS)


def test_core_asks_for_repetition_and_threads_of_every_operation():
    for mode in (Mode.REPEAT, Mode.THREADS):
        assert {case.demand.op for case in CORE if case.mode is mode} == {
            case.demand.op for case in CORE
        }


def test_selection_is_a_glob_over_ids():
    ids = [case.id for case in select(pattern="linear_4bit/nf4/b64/float32/m1-*/bias")]
    assert "linear_4bit/nf4/b64/float32/m1-n48-k130/bias" in ids
    assert all(each.startswith("linear_4bit/nf4/b64/float32/m1-") for each in ids)


def test_inputs_follow_from_id_and_seed_alone():
    case = next(select(pattern="quantize_4bit/nf4/b64/float32/random"))
    first, again, other = (case.problem(seed).x.bits for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    # A value written down once: the stream is the same on every machine and in every version.
    assert [f"{word:08x}" for word in first[0, :3]] == ["bd00b1e2", "ba3c762c", "3e2b8252"]


def test_draws_have_their_distributions():
    draw = Draw(7)
    bell = draw.bell(100_000)
    # Standard errors: 1/sqrt(n) of the mean, below sqrt(2/n) of the variance; five of them.
    assert abs(bell.mean()) < 5 / np.sqrt(1e5)
    assert abs(bell.var() - 1) < 5 * np.sqrt(2e-5)
    uniform = draw.uniform(100_000)
    assert 0 <= uniform.min() < 1e-3
    assert 1 - 1e-3 < uniform.max() < 1
    magnitudes = draw.magnitudes(-3, 2, 1000)
    assert magnitudes.min() >= 2.0**-3
    assert magnitudes.max() < 4


@pytest.mark.parametrize("dtype", FORMATS)
class TestMatrices:
    def test_midpoints_hold_ties_and_their_neighbors(self, dtype):
        book = codebook_8bit(CODE_MAPS["even"]())
        x = values_of(midpoints(book)(Draw(0), dtype, 64))
        unit = x[0].reshape(-1, 64)  # the row of scale 1
        assert (np.abs(unit).max(axis=1) == 1).all()
        representable = [t for t in book.thresholds if FORMATS[dtype].round(t) == t]
        assert len(representable) > 60  # each type has a share of exact ties
        for tie in representable:
            up, down = (FORMATS[dtype].step(np.array([tie]), way)[0] for way in (1, -1))
            assert {tie, up, down} <= set(x[0])

    def test_nonfinite_values_stand_everywhere(self, dtype):
        x = values_of(MATRICES["nonfinite"](Draw(0), dtype, 64))
        for test in (np.isnan, np.isposinf, np.isneginf):
            columns = set(np.argwhere(test(x))[:, 1])
            assert {0, 32, 63, 129} <= columns

    def test_denormals_are_denormal(self, dtype):
        x = values_of(MATRICES["denormals"](Draw(0), dtype, 32))
        assert 0 < np.abs(x).max() < 2.0 ** FORMATS[dtype].emin

    def test_spikes_are_the_largest_number(self, dtype):
        x = values_of(MATRICES["spike"](Draw(0), dtype, 32))
        assert (np.abs(x.reshape(2, 3, 32)).max(axis=2) == FORMATS[dtype].largest).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sweeps_are_exhaustive(dtype):
    natural = natural_sweep(Draw(0), dtype, 64)
    assert np.array_equal(np.unique(natural.bits), np.arange(1 << 16))
    anchored = values_of(anchored_sweep(Draw(0), dtype, 64))
    everything = FORMATS[dtype].decode(np.arange(1 << 16, dtype=np.uint16))
    assert np.isin(everything[np.isfinite(everything)], anchored).all()


def test_nothing_here_imports_torch_or_a_backend():
    # One module knows torch; the reference and the cases must not depend on what they judge.
    modules = ("cases", "bounds", "cli", "mutants", "discovery", "reference", "report", "runner")
    foreign = ("torch", "kq_functional", "kq_kernels", "triton", "scipy", "transformers")
    code = "import sys\n" + "".join(f"import kq_conformance.{each}\n" for each in modules)
    code += "print(*{each.partition('.')[0] for each in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(foreign) & set(done.stdout.split())
