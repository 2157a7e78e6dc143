"""State in memory of the host, for parameters on a device, which is a model: see `device_model`."""

import contextlib
import copy
import gc
import pickle
import weakref
from types import SimpleNamespace

import pytest
import torch
from device_model import ORDERS, SCHEDULES, WAITS, ModelDevice, install
from training_steps import copies, through_file, train

import kq_optim
from kq_optim import (
    AdamW,
    AdamW8bit,
    PagedAdamW8bit,
    PagedRMSprop8bit,
    RMSprop8bit,
    load_checkpoint,
    offloaded,
    paged,
    save_checkpoint,
    transfers,
)
from kq_optim.offloaded import Offloaded
from kq_optim.paged import Paged
from kq_optim.rules import Update
from kq_optim.transfers import CudaTransfers, Lane
from kq_optim.work import collect_work

LARGE, SMALL = (40, 60), (33,)
SHAPES = [LARGE, SMALL, (2048,), (50, 60), LARGE, (7, 9), (80, 50), (2000,)]
LATE = ORDERS[0]
"""An order of preference in which nothing is done before the host waits."""


@pytest.fixture(autouse=True)
def sizes(monkeypatch):
    """Small tensors count as large, and about two parameters fill a portion."""
    monkeypatch.setattr(offloaded, "MIN_PAGED_SIZE", 1000)
    monkeypatch.setattr(paged, "BATCH_BYTES", 10_000)


@pytest.fixture
def use(monkeypatch):
    """Returns a function that makes a model the device of paged parameters."""

    def start(schedule=LATE, without=None):
        device = ModelDevice(schedule, without)
        install(monkeypatch, device)
        return device

    return start


def parameters(shapes=SHAPES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def trained(name, dtype=torch.float32, steps=3, **options):
    torch.manual_seed(0)  # for the seeds of stochastic rounding
    params = parameters(dtype=dtype)
    optimizer = getattr(kq_optim, name)(params, **{"lr": 0.01, "min_8bit_size": 1000, **options})
    train(optimizer, params, steps)
    return optimizer, params


def same(optimizer, other):
    """Whether parameters and state are equal to the bit; states are read as they are."""
    pairs = zip(optimizer.param_groups[0]["params"], other.param_groups[0]["params"], strict=True)
    return all(
        torch.equal(left, right)
        and optimizer.state[left].keys() == other.state[right].keys()
        and all(torch.equal(t, other.state[right][n]) for n, t in optimizer.state[left].items())
        for left, right in pairs
    )


@pytest.mark.parametrize("state", ["8bit", "32bit"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_steps_are_those_of_the_resident_optimizer(schedule, state, use):
    reference, _ = trained(f"AdamW{state}")
    device = use(schedule)
    optimizer, _ = trained(f"PagedAdamW{state}")
    optimizer.synchronize()
    assert same(optimizer, reference)
    assert device.finished.count("step") >= 3 * 4


@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: f"{wait[0].value} for {wait[1].value}")
def test_no_wait_can_be_left_out(wait, use):
    """The model notices: some order that the remaining waits allow gives wrong results."""
    reference, _ = trained("AdamW8bit")
    results = []
    for order in ORDERS:
        device = use(order, without=wait)
        optimizer, _ = trained("PagedAdamW8bit")
        device.finish()
        results.append(same(optimizer, reference))
    assert not all(results)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "corrected"])
@pytest.mark.parametrize("state", ["8bit", "32bit"])
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Adam", {"amsgrad": True}),
        ("AdEMAMix", {}),
        ("Lion", {}),
        ("SGD", {}),
        ("SGD", {"momentum": 0.9}),
        ("RMSprop", {"centered": True, "eps": 0.1}),
        ("Adagrad", {"initial_accumulator_value": 0.1}),
        ("LAMB", {}),
        ("LARS", {"momentum": 0.9, "max_unorm": 0.02}),
    ],
)
def test_every_family_and_rounding(family, options, state, rounding, use):
    options = {**options, "rounding": rounding, "dtype": torch.bfloat16, "steps": 2}
    reference, _ = trained(f"{family}{state}", **options)
    use()
    optimizer, _ = trained(f"Paged{family}{state}", **options)
    optimizer.synchronize()
    assert same(optimizer, reference)


def through_checkpoint_file(optimizer, path):
    save_checkpoint(optimizer, path)
    clone = PagedAdamW8bit(copies(optimizer.param_groups[0]["params"]), min_8bit_size=1000)
    load_checkpoint(clone, path)
    return clone


WAYS = {
    "deepcopy": lambda optimizer, _: copy.deepcopy(optimizer),
    "pickle": lambda optimizer, _: pickle.loads(pickle.dumps(optimizer)),
    "checkpoint": lambda optimizer, folder: through_checkpoint_file(optimizer, folder / "x.pt"),
}


@pytest.mark.parametrize("way", WAYS)
def test_copies_wait_for_what_was_stepped_and_are_independent(way, use, tmp_path):
    reference, reference_params = trained("AdamW8bit")
    use()
    optimizer, _ = trained("PagedAdamW8bit")
    clone = WAYS[way](optimizer, tmp_path)
    assert same(clone, reference)
    clone_params = clone.param_groups[0]["params"]
    train(clone, clone_params, 2, start=3)
    train(reference, reference_params, 2, start=3)
    clone.synchronize()
    assert same(clone, reference)
    assert optimizer.state[optimizer.param_groups[0]["params"][0]]["step"] == 3


@pytest.mark.parametrize("way", WAYS)
def test_the_model_notices_copies_that_do_not_wait(way, use, tmp_path):
    reference, _ = trained("AdamW8bit")
    use(without="synchronize")
    optimizer, _ = trained("PagedAdamW8bit")
    assert not same(WAYS[way](optimizer, tmp_path), reference)


@pytest.mark.parametrize("after", ["resident", "paged"])
@pytest.mark.parametrize("before", ["resident", "paged"])
@pytest.mark.parametrize("schedule", [LATE, 0], ids=str)
def test_checkpoints_go_between_placements(schedule, before, after, use):
    options = {"dtype": torch.bfloat16, "rounding": "corrected"}
    reference, _ = trained("AdamW8bit", steps=5, **options)
    device = use(schedule)
    optimizer, params = trained("AdamW8bit", placement=before, **options)
    saved = through_file(optimizer.state_dict())
    others = copies(params)
    other = AdamW8bit(others, lr=0.5, min_8bit_size=1000, placement=after, rounding="corrected")
    other.load_state_dict(saved)
    train(other, others, 2, start=3)
    other.synchronize()
    assert same(other, reference)
    assert bool(device.allocated) == ("paged" in (before, after))


def test_groups_and_overrides_choose_the_placement(use, tmp_path):
    shapes = [LARGE, LARGE, LARGE, SMALL]

    def make(placement):
        params = parameters(shapes)
        optimizer = AdamW8bit([{"params": params[:2]}], min_8bit_size=10)
        optimizer.override(params[1], placement=placement)
        train(optimizer, params[:2], 1)
        optimizer.add_param_group({"params": params[2:], "placement": placement})
        train(optimizer, params, 1, start=1)
        return optimizer, params

    reference, expected = make("resident")
    device = use()
    optimizer, params = make("paged")
    optimizer.synchronize()
    for left, right in zip(params, expected, strict=True):
        assert torch.equal(left, right)
    assert device.finished.count("upload") == 2 + 2 * 2  # codes of one, then of two parameters
    assert same(optimizer, reference)


def test_small_tensors_stay_on_the_device(use):
    device = use()
    params = parameters([SMALL, (64, 15)])
    optimizer = PagedAdamW8bit(params)
    train(optimizer, params, 1)
    optimizer.synchronize()
    assert device.finished == ["step"] * len(device.finished)
    assert device.allocated == []


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("fails", [False, True])
def test_what_follows_a_step_follows_its_copies(fails, order, use, monkeypatch):
    """The buffers are free then, whoever gets their memory, also if a step fails half way."""
    device = use(order)
    params = parameters()
    optimizer = PagedAdamW8bit(params, min_8bit_size=1000)
    train(optimizer, params, 1)
    if fails:
        enqueue, steps = device.enqueue, []

        def refuse(lane, kind, task=None):
            steps.extend([kind] * (kind == "step"))
            if kind == "step" and len(steps) == 2:
                raise RuntimeError("no step")
            enqueue(lane, kind, task)

        monkeypatch.setattr(device, "enqueue", refuse)
        with pytest.raises(RuntimeError, match="no step"):
            train(optimizer, params, 1, start=1)
    device.finish(until=lambda: device.is_idle(Lane.CURRENT))
    assert device.is_idle(Lane.UPLOAD)
    assert device.is_idle(Lane.DOWNLOAD)


def test_copies_of_both_directions_and_steps_do_not_hold_each_other_up(use, monkeypatch):
    """Six portions of two tensors each, and three buffers."""
    monkeypatch.setattr(paged, "BATCH_BYTES", 1)
    device, params = use(), parameters([(1000,)] * 6)
    done = device.finished.count
    train(PagedAdamW8bit(params, min_8bit_size=0), params, 1)
    device.finish([Lane.CURRENT])
    device.finish([Lane.UPLOAD])
    assert (done("upload"), done("step"), done("download")) == (6, 0, 0)  # ahead of the steps
    device.finish([Lane.CURRENT, Lane.UPLOAD])
    assert (done("upload"), done("step"), done("download")) == (6, 3, 0)  # no buffer is free
    device.finish([Lane.DOWNLOAD], until=lambda: done("download") == 2)
    device.finish([Lane.CURRENT, Lane.UPLOAD])
    assert (done("upload"), done("step"), done("download")) == (8, 4, 2)  # one was


def test_buffers_are_as_large_as_needed_and_no_larger(use):
    device = use()
    params = parameters([(1000,)] * 3 + [(30_000,)] + [(1000,)] * 3)
    optimizer = PagedAdamW8bit(params, min_8bit_size=0)
    train(optimizer, params, 2)
    (size,) = set(device.allocated)
    assert 2 * 30_000 <= size <= 2 * 30_000 + 2 * 10_000 + 3 * 512
    assert len(device.allocated) == 2  # one for each step: nothing is kept in between


def test_memory_is_given_back_when_the_optimizer_dies(use):
    use()
    optimizer, params = trained("PagedAdamW8bit")
    state = optimizer.state[params[0]]["state1"]
    optimizer.synchronize()  # what is enqueued keeps it alive
    dies = weakref.ref(state)
    del state, optimizer
    gc.collect()
    assert dies() is None


def test_checkpoints_for_bitsandbytes_are_those_of_the_resident_optimizer(use):
    reference, _ = trained("RMSprop8bit")
    expected = kq_optim.export_bitsandbytes(reference)["state"]
    use()
    optimizer, params = trained("PagedRMSprop8bit")
    exported = kq_optim.export_bitsandbytes(optimizer)
    for key, tensors in expected.items():
        ours = exported["state"][key]["__bnb_optimizer_quant_state__"]
        for name, tensor in tensors["__bnb_optimizer_quant_state__"].items():
            assert torch.equal(ours[name], tensor)
    other = PagedRMSprop8bit(copies(params), min_8bit_size=1000)
    kq_optim.import_bitsandbytes(other, exported)
    again = RMSprop8bit(copies(params), min_8bit_size=1000)
    kq_optim.import_bitsandbytes(again, exported)
    assert same(other, again)


def test_one_group_may_have_parameters_on_several_devices(monkeypatch):
    device = ModelDevice(LATE)

    def placement_for(options, where):
        return Paged(None) if where.type == "cpu" else Offloaded(device)

    monkeypatch.setattr("kq_optim.layout.placement_for", placement_for)
    params = [torch.nn.Parameter(torch.ones(LARGE, device=d)) for d in ("cpu", "meta", "cpu")]
    for param in params:
        param.grad = torch.ones_like(param)
    group = AdamW(params, placement="paged").param_groups[0]
    update = Update("adam", {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8})
    here, there = collect_work([group], lambda _: update, 1.0)
    assert (here.layout.placement, there.layout.placement) == (Paged(None), Offloaded(device))
    assert [id(param) for param in here.params] == [id(params[0]), id(params[2])]


class TestWithoutLockableMemory:
    """What CUDA's side does without a device: here, torch refuses to pin memory anyway."""

    @pytest.fixture(autouse=True)
    def refuse(self, monkeypatch):
        empty = torch.empty

        def refusing(*arguments, pin_memory=False, **options):
            if pin_memory and self.locked >= self.lockable:
                raise RuntimeError("CUDA error: out of memory")
            self.locked += pin_memory
            return empty(*arguments, **options)

        self.locked = self.lockable = 0
        monkeypatch.setattr(torch, "empty", refusing)
        monkeypatch.setattr(torch.cuda, "Stream", lambda _: object())

    def test_the_probe_says_so_once_and_state_is_kept_in_ordinary_memory(self):
        with pytest.warns(RuntimeWarning, match="cannot be pinned for cuda:0: .*not overlap"):
            lanes = CudaTransfers(torch.device("cuda", 0))
        self.lockable = 100  # what the probe found is not asked again
        tensor = lanes.host_empty((3, 4), torch.int8)
        assert (tensor.shape, tensor.dtype, tensor.device.type) == ((3, 4), torch.int8, "cpu")
        assert self.locked == 0
        assert lanes.is_host_memory(tensor)

    def test_memory_may_become_scarce_later(self):
        self.lockable = 2
        lanes = CudaTransfers(torch.device("cuda", 0))
        for _ in range(3):
            assert lanes.host_empty((3, 4), torch.float32).shape == (3, 4)
        assert self.locked == 2


def test_lanes_are_streams_of_torch(monkeypatch):
    """Every call goes to the stream that belongs to its lane."""
    calls, current = [], []

    class Stream:
        def __init__(self, device):
            assert device == torch.device("cuda", 1)
            self.wait_event = lambda event: calls.append(("wait", self, event.of))

    class Event:
        def record(self, stream):
            self.of = stream

    @contextlib.contextmanager
    def use_stream(stream):
        current.append(stream)
        yield
        current.pop()

    def tensor(place, pinned):
        def copy_(source, non_blocking):
            calls.append(("copy", current[-1], source, non_blocking))

        return SimpleNamespace(device=torch.device(place), is_pinned=lambda: pinned, copy_=copy_)

    default = Stream(torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", use_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: default)
    monkeypatch.setattr(transfers, "_pinned_empty", lambda *_: torch.empty(1))
    lanes = CudaTransfers(torch.device("cuda", 1))
    there = tensor("cuda:1", False)
    for pinned in (True, False):
        here = tensor("cpu", pinned)
        lanes.copy(Lane.UPLOAD, there, here)
        _, upload, *copied = calls.pop()
        assert copied == [here, pinned]
        lanes.copy(Lane.DOWNLOAD, here, there)
        _, download, *copied = calls.pop()
        assert copied == [there, pinned]
    streams = {Lane.CURRENT: default, Lane.UPLOAD: upload, Lane.DOWNLOAD: download}
    assert len(set(streams.values())) == 3
    for lane, marked in WAITS:
        lanes.wait(lane, lanes.mark(marked))
        assert calls.pop() == ("wait", streams[lane], streams[marked])


def test_devices_share_their_lanes_and_others_are_refused(monkeypatch):
    monkeypatch.setattr(transfers, "CudaTransfers", lambda _: object())
    transfers.transfers_for.cache_clear()
    try:
        first, second = (torch.device("cuda", number) for number in (0, 1))
        assert transfers.transfers_for(first) is transfers.transfers_for(first)
        assert transfers.transfers_for(first) is not transfers.transfers_for(second)
    finally:
        transfers.transfers_for.cache_clear()
    with pytest.raises(NotImplementedError, match="on the CPU and on CUDA, got one on mps"):
        transfers.transfers_for(torch.device("mps"))
