"""Paged state of parameters on a real device; `test_offloaded` has what needs none."""

import copy
import gc
import pickle

import pytest
import torch
from training_steps import through_file

import kq_optim
from kq_optim import AdamW8bit, PagedAdamW8bit, offloaded, paged
from kq_optim.transfers import transfers_for

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SHAPES = [(400, 260), (33,), (64, 65), (500, 500), (300, 400), (128, 1024), (1000, 130)]


@pytest.fixture(autouse=True)
def many_portions(monkeypatch):
    monkeypatch.setattr(paged, "BATCH_BYTES", 300_000)


def parameters(shapes=SHAPES, dtype=torch.float32, device="cuda"):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=generator).to(device, dtype) for s in shapes]
    return [torch.nn.Parameter(tensor) for tensor in tensors]


def train(optimizer, steps=3, start=0):
    """Without a look at the device between the steps."""
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(100 + step)
        for param in optimizer.param_groups[0]["params"]:
            param.grad = torch.randn(param.shape, generator=generator).to(param)
        optimizer.step()


def assert_same(optimizer, other):
    optimizer.synchronize()
    other.synchronize()
    pairs = zip(optimizer.param_groups[0]["params"], other.param_groups[0]["params"], strict=True)
    for left, right in pairs:
        assert torch.equal(left, right)
        assert optimizer.state[left].keys() == other.state[right].keys()
        for name, tensor in optimizer.state[left].items():
            assert torch.equal(tensor.cpu(), other.state[right][name].cpu()), name


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "corrected"])
@pytest.mark.parametrize("state", ["8bit", "32bit"])
@pytest.mark.parametrize(
    "family", ["Adam", "AdamW", "AdEMAMix", "Lion", "SGD", "RMSprop", "Adagrad", "LAMB", "LARS"]
)
def test_steps_are_those_of_the_resident_optimizer(family, state, rounding):
    options = {"lr": 0.01, "rounding": rounding}
    options |= {"momentum": 0.9} if family in ("SGD", "LARS") else {}
    made = []
    for name in (f"Paged{family}{state}", f"{family}{state}"):
        torch.manual_seed(0)  # for the seeds of stochastic rounding
        made.append(getattr(kq_optim, name)(parameters(dtype=torch.bfloat16), **options))
        train(made[-1])
    assert_same(*made)


def test_large_tensors_are_pinned_and_small_ones_on_the_device():
    optimizer = PagedAdamW8bit(parameters())
    train(optimizer, 1)
    for state in optimizer.state.values():
        for name in ("state1", "absmax1"):
            if name in state:
                away = state[name].numel() >= paged.MIN_PAGED_SIZE
                assert state[name].is_pinned() == away
                assert state[name].is_cuda == (not away)


def test_the_device_holds_no_large_state_between_steps():
    optimizer = PagedAdamW8bit(parameters([(1 << 20,)] * 16))
    train(optimizer, 1)
    optimizer.zero_grad()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    train(optimizer, 1, start=1)
    optimizer.zero_grad()
    assert torch.cuda.memory_allocated() == before
    resident = AdamW8bit(parameters([(1 << 20,)] * 16))
    before = torch.cuda.memory_allocated()
    train(resident, 1)
    resident.zero_grad()
    assert torch.cuda.memory_allocated() - before >= 2 * 16 << 20


def test_pinned_memory_is_given_back_when_the_optimizer_dies():
    def pinned():
        gc.collect()
        torch.cuda.synchronize()
        torch.accelerator.empty_host_cache()
        return torch.cuda.memory.host_memory_stats()["allocated_bytes.current"]

    before = pinned()
    optimizer = PagedAdamW8bit(parameters([(1 << 20,)] * 4))
    train(optimizer, 1)
    assert pinned() - before >= 8 << 20
    del optimizer
    assert pinned() - before < 1 << 20


@pytest.mark.parametrize("busy", [False, True])
def test_steps_on_another_stream(busy):
    reference = AdamW8bit(parameters())
    train(reference)
    stream = torch.cuda.Stream()
    optimizer = PagedAdamW8bit(parameters())
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        if busy:
            torch.cuda._sleep(100_000_000)  # the host is far ahead
        train(optimizer)
    assert_same(optimizer, reference)


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))]
)
def test_copies_are_paged_and_independent(way):
    optimizer, reference = PagedAdamW8bit(parameters()), AdamW8bit(parameters())
    train(optimizer)
    train(reference)
    clone = way(optimizer)
    assert clone.state[clone.param_groups[0]["params"][0]]["state1"].is_pinned()
    assert_same(clone, reference)
    train(clone, 2, start=3)
    train(reference, 2, start=3)
    assert_same(clone, reference)


@pytest.mark.parametrize("after", [("cpu", "paged"), ("cuda", "resident"), ("cuda", "paged")])
@pytest.mark.parametrize("before", [("cpu", "paged"), ("cuda", "resident"), ("cuda", "paged")])
def test_checkpoints_go_between_devices_and_placements(before, after):
    (device, placement), (other_device, other_placement) = before, after
    optimizer = AdamW8bit(parameters(device=device), placement=placement)
    train(optimizer)
    saved = through_file(optimizer.state_dict())
    other = AdamW8bit(parameters(device=other_device), lr=0.5, placement=other_placement)
    other.load_state_dict(saved)
    for left, right in zip(optimizer.state.values(), other.state.values(), strict=True):
        for name, tensor in left.items():
            assert torch.equal(tensor.cpu(), right[name].cpu())
    train(other, 1, start=3)


def test_checkpoints_for_bitsandbytes_are_those_of_the_resident_optimizer():
    """Codes that are in memory of the host, with scales that are on the device."""
    optimizer, reference = (
        kq_optim.PagedRMSprop8bit(parameters()),
        kq_optim.RMSprop8bit(parameters()),
    )
    train(optimizer)
    train(reference)
    ours, theirs = (kq_optim.export_bitsandbytes(each) for each in (optimizer, reference))
    for key, entry in theirs["state"].items():
        for name, tensor in entry["__bnb_optimizer_quant_state__"].items():
            found = ours["state"][key]["__bnb_optimizer_quant_state__"][name]
            assert torch.equal(found.cpu(), tensor.cpu()), name


def test_parameters_on_the_cpu_and_on_the_device_together():
    params = parameters(device="cpu")[:4] + parameters()[4:]
    optimizer = PagedAdamW8bit(params)
    reference = AdamW8bit(parameters(device="cpu")[:4] + parameters()[4:])
    train(optimizer)
    train(reference)
    assert_same(optimizer, reference)
    assert paged.is_paged(optimizer.state[params[0]]["state1"])
    assert optimizer.state[params[4]]["state1"].is_pinned()


def test_without_pinned_memory_steps_are_the_same(monkeypatch):
    reference = AdamW8bit(parameters())
    train(reference)
    lanes = transfers_for(torch.device("cuda", torch.cuda.current_device()))
    monkeypatch.setattr(lanes, "_pins", False)
    optimizer = PagedAdamW8bit(parameters())
    train(optimizer)
    assert not any(t.is_pinned() for s in optimizer.state.values() for t in s.values())
    assert_same(optimizer, reference)


def test_the_host_does_not_wait_for_copies():
    lanes = transfers_for(torch.device("cuda", torch.cuda.current_device()))
    placement = offloaded.Offloaded(lanes)
    states = [{"state1": lanes.host_empty((200_000,), torch.uint8).fill_(1)} for _ in range(8)]
    for busy in (False, True):  # the first walk allocates
        torch.cuda.synchronize()
        torch.cuda._sleep(busy * 2_000_000_000)  # about a second
        for _, portion in placement.walk(states):
            for state in portion:
                state["state1"] += 1
        assert not (busy and torch.cuda.current_stream().query())
    assert states[0]["state1"][0] == 2
    placement.synchronize()
    assert all((state["state1"] == 3).all() for state in states)
