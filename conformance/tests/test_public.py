"""The route through the public functions of kq-functional: layouts, breaches, checks, judges."""

import subprocess
import sys
import types
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import kq_functional as kq
from kq_conformance.adapter import Adapter
from kq_conformance.bounds import Strictness
from kq_conformance.cases import Profile
from kq_conformance.cases.contract import contract_case
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.public import ERRORS, public_cases
from kq_conformance.cases.public_problems import CompressStatistics
from kq_conformance.cases.refusals import refusal_cases
from kq_conformance.discovery import find_backend
from kq_conformance.floats import Stored, store
from kq_conformance.public import PublicSubject
from kq_conformance.public.call import Call
from kq_conformance.public.errors import WRONG
from kq_conformance.public.samples import Sample, invocations
from kq_conformance.public.tracing import registered
from kq_conformance.runner import Settings, Verdict, run_case
from kq_conformance.subject import ContractBreachError, Route
from kq_functional.backends.torch import TorchBackend

CASES = {each.id: each for each in public_cases()}
X = store(np.arange(6.0).reshape(2, 3), "float32")
QUANTIZE = "quantize_4bit/nf4/b64/float32/public"


def sample(op):
    if op.startswith("int8"):
        return Sample(op, "int8" if op == "int8_linear_matmul" else "float32", None, None, "cpu")
    size = 256 if "wise" in op or "8bit" in op else 64
    return Sample(op, "float32", "nf4" if "_4bit" in op else None, size, "cpu")


SAMPLES = {op: sample(op) for op in ERRORS}


def subject(route=Route.PLAIN, name="torch"):
    return PublicSubject(name, "cpu", route)


def verdicts(name, cases):
    backend = find_backend(name)
    adapter = Adapter(backend, "cpu", name)
    return {each.id: run_case(backend, adapter, each, Settings()) for each in cases}


@pytest.fixture
def public(monkeypatch):
    """Replace a public function by one that gets the original and the arguments."""

    def put(name, fake):
        original = getattr(kq, name)
        monkeypatch.setattr(kq, name, lambda *args, **options: fake(original, *args, **options))

    return put


@pytest.mark.parametrize("name", ["torch", "native"])
def test_our_backends_pass(name):
    cases = [each for each in CASES.values() if each.profile <= Profile.CORE]
    bad = {
        case_id: finding.message or finding.failed
        for case_id, finding in verdicts(name, cases).items()
        if finding.verdict not in (Verdict.PASS, Verdict.UNSUPPORTED)
    }
    assert bad == {}


def test_ids_are_unique():
    ids = [each.id for source in (public_cases, refusal_cases) for each in source()]
    assert max(Counter(ids).values()) == 1
    with pytest.raises(KeyError):
        contract_case(ids[0])


def test_every_route_of_every_operation():
    asked = Counter(
        (each.demand.op, each.id.split("/public/")[1].split("/")[0]) for each in CASES.values()
    )
    for op in ERRORS:
        routes = {"plain"}
        if not op.startswith("optimizer"):
            routes |= {"transposed", "sliced"}
            # The rows of experts are one matrix.
            routes |= set() if "grouped" in op else {"expanded"}
        if "quantize" in op:
            routes |= {"out"}
        assert {route for each, route in asked if each == op} >= routes


class TestCall:
    @pytest.mark.parametrize(
        ("route", "shape", "strides"),
        [
            (Route.PLAIN, (2, 3), (3, 1)),
            (Route.OUT, (2, 3), (3, 1)),
            (Route.TRANSPOSED, (2, 3), (1, 2)),
            (Route.SLICED, (2, 3), (6, 2)),
            (Route.EXPANDED, (2, 2, 3), (0, 3, 1)),
        ],
    )
    def test_layouts(self, route, shape, strides):
        tensor = Call("torch", "cpu", route).take_routed("A", X)
        assert tuple(tensor.shape) == shape
        assert tensor.stride() == strides
        assert torch.equal(tensor.expand(2, 2, 3)[0], torch.arange(6.0).view(2, 3))

    def test_writing_between_the_elements_of_an_input_is_a_breach(self):
        call = Call("torch", "cpu", Route.SLICED)
        tensor = call.take_routed("A", X)
        neighbor = tensor.as_strided((1,), (1,), 1)
        with pytest.raises(ContractBreachError, match="the input A was changed at byte 4"):
            call.run(neighbor.zero_)

    def test_results_must_have_their_shape_and_type(self):
        call = Call("torch", "cpu", Route.PLAIN)
        with pytest.raises(ContractBreachError, match=r"out must be uint8 of shape \(3, 2\), got"):
            call.result("out", torch.zeros(2, 3), (3, 2), "uint8")

    def test_copies_must_agree(self):
        call = Call("torch", "cpu", Route.EXPANDED)
        with pytest.raises(ContractBreachError, match="out differs between equal matrices"):
            call.result("out", torch.arange(2.0).view(2, 1, 1), (1, 1), "float32")

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1)])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_bits_survive(self, shape, dtype):
        bits = np.full(shape, np.iinfo(np.uint16).max - 1)  # a NaN with a payload in 16 bits
        stored = Stored(bits.astype(store(np.zeros(1), dtype).bits.dtype), dtype)
        call = Call("torch", "cpu", Route.PLAIN)
        found = call.result("x", call.take("x", stored), shape, dtype)["x"]
        assert np.array_equal(found.bits, stored.bits)


class TestBreaches:
    """Faults of the public functions, and what the cases say of them."""

    def finding(self, name):
        return next(iter(verdicts("torch", [CASES[f"{QUANTIZE}/{name}"]]).values()))

    def test_strides_ignored(self, public):
        public(
            "quantize_4bit",
            lambda original, A, **options: original(
                A.as_strided(A.shape, (A.shape[1], 1)), **options
            ),
        )
        assert self.finding("plain/random").verdict is Verdict.PASS
        for route in ("transposed", "sliced"):
            assert self.finding(f"{route}/random").verdict is Verdict.FAIL

    def test_input_modified(self, public):
        def fake(original, A, **options):
            result = original(A, **options)
            A.nan_to_num_(7.0).add_(1.0)
            return result

        public("quantize_4bit", fake)
        assert self.finding("plain/random").message.startswith("the input A was changed at byte")

    def test_out_ignored(self, public):
        public(
            "quantize_4bit",
            lambda original, A, **options: original(A, **options | {"out": None}),
        )
        assert self.finding("out/random").message == "packed is not the tensor that was handed over"

    def test_state_that_describes_something_else(self, public):
        def fake(original, A, **options):
            packed, state = original(A, **options)
            return packed, replace(state, dtype=torch.float16)

        public("quantize_4bit", fake)
        message = self.finding("plain/random").message
        assert message == "the state has dtype torch.float16, and must have torch.float32"

    def test_gradient_that_leaks(self, public):
        def fake(original, A, **options):
            packed, state = original(A, **options)
            absmax = state.absmax * (A.abs().max() + 1) if A.requires_grad else state.absmax
            return packed, replace(state, absmax=absmax)

        public("quantize_4bit", fake)
        message = self.finding("grad-mode").message
        assert message.startswith("4 of 4 wrong: result[1].absmax requires a gradient when A is")


class TestErrors:
    def message(self, argument, op="quantize_4bit"):
        sample = SAMPLES[op]
        with pytest.raises(ContractBreachError) as caught:
            subject().check(
                f"errors/{argument}", op, sample.dtype, sample.quant_type, sample.blocksize
            )
        return str(caught.value)

    def test_tables_hold_what_the_cases_ask(self):
        assert set(WRONG) == set(ERRORS)
        for op, arguments in ERRORS.items():
            rows = WRONG[op](invocations(SAMPLES[op]))
            assert tuple(rows) == arguments
            assert all(rows.values())
            labels = [row.label for each in rows.values() for row in each]
            assert all(" = " in label for label in labels)

    def test_accepted(self, public):
        def fake(original, A, **options):
            del original, options
            return A

        public("quantize_4bit", fake)
        message = self.message("layout")
        assert message == "2 of 2 wrong: layout = 'column': accepted; layout = None: accepted"

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (ValueError("what is this?"), "the message does not name it: what is this?"),
            (KeyError("layout"), "KeyError instead of TypeError or ValueError: 'layout'"),
        ],
    )
    def test_refused_in_a_wrong_way(self, public, error, message):
        def fake(original, A, layout, **options):
            if layout != "row":
                raise error
            return original(A, layout=layout, **options)

        public("quantize_4bit", fake)
        assert f"layout = 'column': {message}" in self.message("layout")

    def test_changed_before_it_was_refused(self, public):
        def fake(original, A, out=None, absmax=None, **options):
            if absmax is not None and isinstance(absmax, torch.Tensor):
                out.fill_(1)
            return original(A, out=out, absmax=absmax, **options)

        public("quantize_4bit", fake)
        assert "refused after out had been changed" in self.message("absmax")

    def test_overlap_accepted(self, public):
        public("dequantize_4bit", lambda *_, **options: options["out"])
        with pytest.raises(ContractBreachError, match="4 of 4 wrong: out at byte 0 of A: accepted"):
            subject().check("aliasing", "dequantize_4bit", "float32", "nf4", 64)

    def test_neighbors_are_no_overlap(self, public):
        def fake(*_args, **_options):
            raise ValueError("out and absmax are too near for me")

        public("quantize_4bit", fake)
        with pytest.raises(ValueError, match="too near"):
            subject().check("aliasing", "quantize_4bit", "float32", "nf4", 64)


class TestJudges:
    problem = CompressStatistics(store(Draw(1).bell(201, 135), "float32"), "nf4", 64)
    outputs = subject().compress(problem.x, quant_type="nf4", blocksize=64)

    def failures(self, **changes):
        judged = self.problem.judge(self.outputs | changes, Strictness.EXACT)
        return {each.quantity for each in judged if not each.passed}

    def changed(self, name, bit, place=0):
        bits = self.outputs[name].bits.copy()
        bits.reshape(-1)[place] ^= 1 << bit
        return {name: Stored(bits, self.outputs[name].dtype)}

    def test_parts_of_compressed_statistics(self):
        assert self.failures() == set()
        assert self.failures(**self.changed("packed", 0)) == {"codes", "out"}
        assert "absmax" in self.failures(**self.changed("absmax", 0))
        assert "nested_absmax" in self.failures(**self.changed("nested_absmax", 0))
        assert "nested_code" in self.failures(**self.changed("nested_code", 0, 3))
        assert "offset" in self.failures(**self.changed("offset", 14))
        assert self.failures(**self.changed("out", 0)) == {"out"}

    @pytest.mark.parametrize("quantity", ["out", "grad_x", "grad_bias"])
    def test_gradients(self, quantity):
        problem = CASES["linear_4bit/nf4/b64/bfloat16/public/bias-gradient"].problem(0)
        w = problem.weights
        outputs = subject().gradients(
            problem.x,
            Stored(w.packed, "uint8"),
            w.scales,
            problem.bias,
            problem.grad,
            quant_type="nf4",
            blocksize=64,
        )
        assert all(each.passed for each in problem.judge(outputs, Strictness.EXACT))
        bits = outputs[quantity].bits.copy()
        bits.reshape(-1)[5] ^= 8  # 2**-4 of the number: more than any sum here may err
        judged = problem.judge(outputs | {quantity: Stored(bits, "bfloat16")}, Strictness.EXACT)
        assert [each.quantity for each in judged if not each.passed] == [quantity]


class TestLoading:
    def test_what_kq_functional_does_not_accept(self):
        with pytest.raises(ContractBreachError, match="does not load the backend"):
            subject(name="no.such:thing")
        with pytest.raises(ContractBreachError, match="unknown backend 'nowhere'"):
            subject(name="nowhere")

    def test_without_kq_functional(self):
        code = (
            "import sys; sys.modules['kq_functional'] = None\n"
            "from kq_conformance.subject import RouteMissingError\n"
            "try:\n    import kq_conformance.public\n"
            "except RouteMissingError as error:\n    print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "kq-functional is not installed\n"

    def test_what_takes_operations_that_are_not_declared(self, monkeypatch):
        class Partial(TorchBackend):
            capabilities = tuple(
                each
                for each in TorchBackend.capabilities
                if each.op in ("quantize_4bit", "linear_4bit")
            )

        module = types.ModuleType("kq_partial_backend")
        module.backend = Partial()
        monkeypatch.setitem(sys.modules, module.__name__, module)
        found = verdicts(
            "kq_partial_backend:backend",
            [
                CASES[f"{QUANTIZE}/plain/random"],
                CASES[f"{QUANTIZE}/compress-statistics/r1-c5"],
                CASES["linear_4bit/nf4/b64/float32/public/bias-gradient"],
                CASES["linear_4bit_backward/nf4/b64/float32/public/plain/m1-n48-k130"],
                CASES["linear_4bit_grouped/nf4/b64/float32/public/bias-gradient"],
            ],
        )
        expected = [Verdict.PASS, *[Verdict.UNSUPPORTED] * 4]
        assert [each.verdict for each in found.values()] == expected


def test_every_registered_op_is_checked():
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("kq::")}
    asked = {op.name() for sample in SAMPLES.values() for op, _ in registered(sample)}
    assert asked == names
