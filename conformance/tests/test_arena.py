"""The tensors that a backend gets, and what is noticed around them."""

import numpy as np
import pytest
import torch

from kq_conformance.adapter import Adapter
from kq_conformance.floats import store
from kq_conformance.pages import AVAILABLE, PAGE
from kq_conformance.reference import RULES
from kq_conformance.reference_backend import ReferenceBackend, memory
from kq_conformance.subject import ContractBreachError, Placement, Rounding

X = store(np.ones((2, 3)), "float32")
HYPER = RULES["adam"].hyper()
guarded = pytest.mark.skipif(not AVAILABLE, reason="this system has no guard pages")


def call(body, placement=Placement.END):
    class Probe(ReferenceBackend):
        def quantize_4bit(self, A, packed, absmax, **_options):
            body(A, packed, absmax)

    adapter = Adapter(Probe())
    with adapter.placed(placement):
        return adapter.quantize_4bit(X, quant_type="nf4", blocksize=64)


def test_outputs_are_poisoned():
    outputs = call(lambda *_: None)
    assert (outputs["packed"].bits == 0xFF).all()
    assert (outputs["absmax"].bits == 0xFFFFFFFF).all()


@pytest.mark.parametrize("placement", Placement)
def test_inputs_arrive(placement):
    def body(A, *_outputs):
        assert A.tolist() == [[1.0] * 3] * 2

    call(body, placement)


@guarded
def test_tensors_end_at_a_page():
    def body(*tensors):
        for tensor in tensors:
            size = tensor.numel() * tensor.element_size()
            assert (tensor.data_ptr() + size) % PAGE == 0

    call(body)


@guarded
def test_tensors_begin_at_a_page():
    def body(*tensors):
        assert {tensor.data_ptr() % PAGE for tensor in tensors} == {0}

    call(body, Placement.BEFORE)


def test_tensors_are_not_aligned():
    def body(A, packed, absmax):
        assert [each.data_ptr() % 64 for each in (A, packed, absmax)] == [4, 1, 4]

    call(body, Placement.OFFSET)


def test_rows_lie_apart():
    def body(A, packed, absmax):
        assert A.stride() == (8, 1)
        assert packed.is_contiguous()
        assert absmax.is_contiguous()
        gap = A.as_strided((5,), (1,), A.storage_offset() + 3)
        assert gap.isnan().all()

    call(body, Placement.STRIDED)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("placement", Placement)
def test_empty_tensors(placement, shape):
    class Probe(ReferenceBackend):
        def quantize_4bit(self, A, packed, absmax, **_options):
            assert tuple(A.shape) == shape
            assert packed.numel() == absmax.numel() == 0

    adapter = Adapter(Probe())
    with adapter.placed(placement):
        outputs = adapter.quantize_4bit(
            store(np.zeros(shape), "float16"), quant_type="nf4", blocksize=64
        )
    assert outputs["packed"].bits.size == 0


@pytest.mark.parametrize(
    ("offset", "place"), [(-1, "byte 1 before its start"), (4, "byte 1 past its end")]
)
@pytest.mark.parametrize("placement", Placement)
def test_writes_outside_are_breaches(placement, offset, place):
    def body(_A, packed, _absmax):
        memory(packed, 1, 1)[1 + offset] = 1

    message = rf"memory outside of packed \(4 bytes\) was .*written, first at {place}"
    with pytest.raises(ContractBreachError, match=message):
        call(body, placement)


@guarded
@pytest.mark.parametrize(
    ("placement", "offset", "place"),
    [
        (Placement.END, 24, "byte 1 past its end"),
        (Placement.BEFORE, -1, "byte 1 before its start"),
    ],
)
def test_reads_outside_are_breaches(placement, offset, place):
    def body(A, *_outputs):
        memory(A, 1, 1)[1 + offset].copy()

    message = rf"memory outside of A \(24 bytes\) was read or written, first at {place}"
    with pytest.raises(ContractBreachError, match=message):
        call(body, placement)


@guarded
def test_inputs_that_are_changed_and_restored_are_breaches():
    def body(A, *_outputs):
        before = A.clone()
        A.view(-1)[1:3].zero_()
        A.copy_(before)

    with pytest.raises(ContractBreachError, match="the input A was written, first at byte 4"):
        call(body)


@pytest.mark.parametrize("error", [NotImplementedError, TypeError, ValueError])
def test_a_refusal_passes_through(error):
    def body(*_):
        raise error("not here")

    with pytest.raises(error, match="not here"):
        call(body)


def test_a_refusal_after_writing_is_a_breach():
    def body(_A, packed, _absmax):
        packed.zero_()
        raise ValueError("too late")

    with pytest.raises(ContractBreachError, match="refused after packed had been written"):
        call(body)


def test_a_refusal_leaves_what_is_updated_in_place():
    values = [store(np.ones(5), "float32") for _ in range(4)]

    class Probe(ReferenceBackend):
        def optimizer_step_32bit(self, *lists, **_hyper):
            states = lists[3]
            states[1][3] = 7.0
            raise NotImplementedError

    with pytest.raises(ContractBreachError, match=r"refused after states\[1\] had been written"):
        Adapter(Probe()).optimizer_step_32bit(
            "adam", values[:1], values[1:2], values[2:], [1], HYPER, rounding=Rounding()
        )


def test_results_are_what_was_written():
    def body(_A, packed, absmax):
        packed.fill_(7)
        absmax.copy_(torch.tensor([[1.0], [2.0]]))

    outputs = call(body)
    assert outputs["packed"].bits.tolist() == [[7, 7], [7, 7]]
    assert outputs["absmax"].bits.view(np.float32).tolist() == [[1.0], [2.0]]
