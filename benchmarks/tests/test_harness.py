"""The harness measures in the order, and reports with the arithmetic, that its README promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import torch

import kq_functional as kq
from benchmarks import checks, cli, plan, report, results
from benchmarks.__main__ import run
from benchmarks.data import gaussian, rotate, sampled_rows
from benchmarks.harness import Contender, Interleaved, Pace, Probe, Row, Verdict, nothing
from benchmarks.isas import chosen_isas
from benchmarks.work import Linear, Optimizing, Training

RIGHT = Verdict(True, "fine")
WRONG = Verdict(False, "3 codes differ")
PACE = Pace(sample=1.0, patience=100.0, few=2)


class Machine:
    """A clock, and calls that make it advance by a known time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def clock(self) -> float:
        return self.now

    def work(self, name: str, *seconds: float) -> Callable[[], None]:
        """A call that takes these times in turn; the last one stays."""
        remaining = list(seconds)

        def call() -> None:
            self.log.append(name)
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return call


def contender(
    family: str, run: Callable[[], object] = nothing, path: str = "", traffic: int = 0
) -> Contender:
    return Contender(family, run, lambda: RIGHT, traffic, path=path)


def record(*results_: results.Result) -> results.Record:
    return results.Record("linear", "M = 1", 5, list(results_), {"read": 10e9})


def result(family: str, seconds: float, correct: bool = True, path: str = "") -> results.Result:
    return results.Result(family, path, seconds, 0.0, 0.5, "read", correct, "codes differ", 1)


# Timing


def test_rounds_interleave_the_contenders() -> None:
    machine = Machine()
    entries = [contender(name, machine.work(name, 1.0)) for name in "ABC"]
    timing = Interleaved(entries, PACE, machine.clock)
    machine.log.clear()
    for _ in range(3):
        timing.round()
    assert "".join(machine.log) == "ABC" * 3
    assert [len(samples) for samples in timing.samples] == [3, 3, 3]


def test_short_calls_are_repeated_within_a_sample_and_divided_out() -> None:
    machine = Machine()
    entries = [contender("short", machine.work("s", 0.25)), contender("long", machine.work("l", 4))]
    timing = Interleaved(entries, PACE, machine.clock)
    assert timing.calls == [4, 1]
    assert timing.round_time == 4 * 0.25 + 4
    timing.round()
    assert timing.samples == [[0.25], [4.0]]


def test_the_first_call_does_not_count() -> None:
    machine = Machine()
    timing = Interleaved([contender("A", machine.work("A", 99.0, 0.5))], PACE, machine.clock)
    assert timing.calls == [2]
    assert timing.samples == [[]]


def test_a_long_call_is_not_tried_more_than_twice() -> None:
    machine = Machine()
    Interleaved([contender("A", machine.work("A", 2.0))], PACE, machine.clock)
    assert machine.log == ["A", "A"]


def test_something_slow_is_called_once_before_the_rounds_and_then_in_few() -> None:
    machine = Machine()
    entries = [contender("A", machine.work("A", 100.0)), contender("B", machine.work("B", 1.0))]
    timing = Interleaved(entries, PACE, machine.clock)
    assert machine.log == ["A", "B", "B"]
    assert timing.round_time == 1.0
    machine.log.clear()
    for _ in range(4):
        timing.round()
    assert "".join(machine.log) == "ABABBB"
    assert timing.samples == [[100.0] * 2, [1.0] * 4]


def test_preparation_is_not_timed() -> None:
    machine = Machine()
    entry = replace(contender("A", machine.work("run", 1.0)), prepare=machine.work("prepare", 50.0))
    timing = Interleaved([entry], PACE, machine.clock)
    machine.log.clear()
    timing.round()
    assert machine.log == ["prepare", "run"]
    assert timing.samples == [[1.0]]


@pytest.mark.parametrize(("seconds", "rounds"), [(0.001, 15), (0.25, 10), (60.0, 5), (0, 3)])
def test_rounds_fit_the_budget_within_limits(seconds: float, rounds: int) -> None:
    assert plan.full(("scalar",)).rounds(seconds) == rounds


def test_operands_rotate_over_the_working_set() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    items = rotate(make, nbytes=30, working_set=100)
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 0]


def test_sampled_rows_hold_both_ends_once() -> None:
    for rows in (1, 2, 127, 128, 129, 5000):
        chosen = sampled_rows(rows).tolist()
        assert chosen[0] == 0
        assert chosen[-1] == rows - 1
        assert len(set(chosen)) == len(chosen)


# Figures


def test_figures_are_medians_ratios_and_fractions_of_the_fastest_probe() -> None:
    row = Row(
        "linear",
        "M = 1",
        [contender("kq avx2", traffic=100), contender("torch", traffic=400)],
        [Probe("read", "slow", nothing, 50), Probe("read", "fast", nothing, 100)],
    )
    ours, theirs = [3.0, 2.0, 90.0], [8.0, 7.0, 9.0]
    samples = [ours, theirs, [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    measured = results.evaluate(row, samples, [1, 1, 1, 1], [RIGHT, WRONG])
    kq_result, torch_result = measured.results
    assert (kq_result.seconds, torch_result.seconds) == (median(ours), median(theirs)) == (3, 8)
    assert results.speedup(kq_result, torch_result) == 8 / 3
    assert measured.limits == {"read": 100.0}
    assert kq_result.fraction == pytest.approx((100 / 100) / 3)  # 100 bytes at 100 bytes a second
    assert (kq_result.correct, torch_result.correct) == (True, False)
    assert torch_result.detail == WRONG.detail


@pytest.mark.parametrize(("flops", "bound", "fraction"), [(10, "read", 0.5), (90, "compute", 0.9)])
def test_the_limit_that_allows_least_binds(flops: int, bound: str, fraction: float) -> None:
    row = Row(
        "linear",
        "M = 16",
        [contender("kq avx2", traffic=50)],
        [Probe("read", "sum", nothing, 100), Probe("compute", "matmul", nothing, 100)],
        flops,
    )
    (measured,) = results.evaluate(row, [[1.0], [1.0], [1.0]], [1, 1, 1], [RIGHT]).results
    assert measured.bound == bound
    assert measured.fraction == pytest.approx(fraction)


def test_a_row_without_limits_has_no_fraction_of_them() -> None:
    row = Row("a call", "M = 1", [contender("kq avx2", traffic=50)], [])
    measured = results.evaluate(row, [[1.0]], [1], [RIGHT])
    assert (measured.results[0].fraction, measured.results[0].bound) == (0, "")
    (table,) = report.comparisons([measured], "kq")
    assert table.lines == [["M = 1", "1.00 s", "-"]]


@pytest.mark.parametrize(("length", "quick"), [(4096, 256), (576, 64), (11008, 704), (4098, 258)])
def test_a_quick_run_keeps_what_is_beyond_whole_blocks(length: int, quick: int) -> None:
    assert plan.quick(("scalar",)).size(length) == quick
    assert plan.full(("scalar",)).size(length) == length


def test_spread_is_the_distance_of_the_quartiles_over_the_median() -> None:
    assert results.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((4 - 2) / 3)
    assert results.spread([1.0]) == 0


def test_a_family_is_represented_by_its_fastest_path_that_is_right() -> None:
    fast_but_wrong = result("bitsandbytes", 1.0, correct=False, path="matmul_4bit")
    right = result("bitsandbytes", 2.0, path="Linear4bit")
    assert record(fast_but_wrong, right).best("bitsandbytes") is right
    assert record(fast_but_wrong).best("bitsandbytes") is fast_but_wrong
    assert record(right).best("torch") is None


def test_records_survive_json() -> None:
    measured = record(result("kq avx2", 1.0), result("torch", 2.0, correct=False))
    assert results.Record.from_json(measured.to_json()) == measured


# Report


def test_a_wrong_contender_is_marked_and_explained() -> None:
    measured = record(result("kq avx2", 2e-3), result("bitsandbytes", 5e-3, correct=False))
    (table,) = report.comparisons([measured], "kq")
    assert table.columns == ["work", "kq avx2", "of the limit", "bitsandbytes"]
    assert table.lines == [["M = 1", "2.00 ms", "50% of read", "5.00 ms (2.50x) ✗"]]
    (note,) = report.remarks([measured], steadiness=True)
    assert note.remarks == ["linear, M = 1: bitsandbytes: codes differ"]
    text = report.markdown("title", {"processor": "p"}, [table], [note])
    assert "| M = 1 | 2.00 ms | 50% of read | 5.00 ms (2.50x) ✗ |" in text


def test_each_instruction_set_has_a_table_against_the_same_peers() -> None:
    measured = record(result("kq avx512", 1.0), result("kq avx2", 2.0), result("torch", 4.0))
    tables = report.comparisons([measured], "kq")
    assert [table.title for table in tables] == ["linear: kq avx512", "linear: kq avx2"]
    assert [table.lines[0][-1] for table in tables] == ["4.00 s (4.00x)", "4.00 s (2.00x)"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.50 s"), (0.125, "125 ms"), (1.5e-5, "15.0 µs")]
)
def test_durations_have_three_digits(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


# Checks: one damaged element is found


def test_a_wrong_code_is_found() -> None:
    source = gaussian(4, 128)
    packed, state = kq.quantize_4bit(source)
    assert checks.quantized_4bit(source, packed, state.absmax, 64).correct
    packed[3, 5] ^= 1
    verdict = checks.quantized_4bit(source, packed, state.absmax, 64)
    assert not verdict.correct
    assert verdict.detail == "codes: 0.391% differ from the definition"  # one byte of 256


def test_a_wrong_value_is_found() -> None:
    packed, state = kq.quantize_4bit(gaussian(4, 128))
    out = kq.dequantize_4bit(packed, state)
    assert checks.dequantized_4bit(packed, state.absmax, out, 64).correct
    out[2, 7] *= 1 + 2**-20
    assert not checks.dequantized_4bit(packed, state.absmax, out, 64).correct


def test_a_wrong_8bit_code_or_value_is_found() -> None:
    source = gaussian(2, 512)
    codes, state = kq.quantize_blockwise(source, blocksize=256)
    out = kq.dequantize_blockwise(codes, state)
    assert checks.quantized_blockwise(source, state.code, codes, state.absmax, 256).correct
    assert checks.dequantized_blockwise(codes, state.code, state.absmax, out, 256).correct
    out[1, 0] += 1
    assert not checks.dequantized_blockwise(codes, state.code, state.absmax, out, 256).correct
    codes[1, 0] ^= 1
    assert not checks.quantized_blockwise(source, state.code, codes, state.absmax, 256).correct


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_product_is_found(dtype: torch.dtype) -> None:
    work = Linear.make(3, 1024, 1024, dtype, plan.quick(("scalar",)))
    operands = work.packed, work.state.absmax
    y = kq.linear_4bit(work.x, work.packed, work.state)
    assert checks.linear_4bit(work.x, *operands, y, 64).correct
    y[2, 5] += 0.1
    assert not checks.linear_4bit(work.x, *operands, y, 64).correct


def test_a_wrong_gradient_is_found() -> None:
    work = Training.make(200, 1024, 1024, torch.float32, plan.quick(("scalar",)))
    linear = work.linear
    weight = kq.dequantize_4bit(linear.packed, linear.state)
    y, grad_x = linear.x.detach() @ weight.T, work.grad @ weight

    def correct() -> bool:
        return checks.linear_4bit_training(
            linear.x, linear.packed, linear.state.absmax, y, work.grad, grad_x, 64
        ).correct

    assert correct()
    grad_x[-1, 0] += 0.1
    assert not correct()


def test_a_wrong_optimizer_step_is_found() -> None:
    work = Optimizing.make([(1024, 1024)], plan.quick(("scalar",)))
    (before,), (grad,), (param,) = work.params, work.grads, work.parameters()
    optimizer = torch.optim.AdamW([param], **work.options)
    zero = torch.zeros_like(before)
    optimizer.step()
    states = checks.States((zero, zero), 0, decoded=False)
    assert checks.optimizer_step("adam", before, grad, states, param, work.hyper).correct
    without_decay = replace(work.hyper, weight_decay=0.0)
    assert not checks.optimizer_step("adam", before, grad, states, param, without_decay).correct


# Command


def test_the_forced_instruction_set_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_isas(["scalar"]) == ("scalar",)
    monkeypatch.setenv("KQ_CPU_ISA", "scalar")
    assert len(chosen_isas()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--isa", "neon"], "isa must be one of"),
        (["--json", "."], "is a folder"),
        (["--markdown", "no/such/folder/report.md"], "does not exist"),
        (["--only", "nothing_is_called_so", "--quick"], "selects no row"),
        (["--limit-peers", "neon"], "limit-peers must be one of"),
        (["--fast"], "No such option"),
    ],
)
def test_bad_input_is_answered_with_one_line(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    assert run() == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert lines[-1].startswith("benchmarks: error: ")


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "report.md"
    cli.write(target, "one")
    cli.write(target, "two")
    assert target.read_text() == "two"
    with pytest.raises(UnicodeEncodeError):
        cli.write(target, "\ud800")
    assert target.read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["report.md"]
