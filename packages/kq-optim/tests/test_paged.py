"""State in memory-mapped files."""

import copy
import errno
import os
import pickle
import re

import pytest
import torch

import kq_optim
from kq_optim import AdamW, AdamW8bit, PagedAdamW, PagedAdamW8bit, PagedLion8bit, paged

LARGE = (400, 260)


def parameters(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def train(optimizer, steps=2):
    for step in range(steps):
        generator = torch.Generator().manual_seed(100 + step)
        for param in optimizer.param_groups[0]["params"]:
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()


def resident_bytes():
    with open("/proc/self/status") as file:
        return int(re.search(r"RssFile:\s+(\d+) kB", file.read())[1]) * 1024


@pytest.mark.parametrize(("cls", "twin"), [(PagedAdamW8bit, AdamW8bit), (PagedAdamW, AdamW)])
def test_steps_are_those_of_the_resident_optimizer(cls, twin, monkeypatch):
    """Also when there are several portions."""
    monkeypatch.setattr(paged, "BATCH_BYTES", 300_000)
    shapes = [LARGE, (33,), LARGE, (64, 65), (500, 500)]
    optimizer, reference = cls(parameters(*shapes)), twin(parameters(*shapes))
    train(optimizer, 3)
    train(reference, 3)
    for ours, theirs in zip(
        optimizer.param_groups[0]["params"], reference.param_groups[0]["params"], strict=True
    ):
        assert torch.equal(ours, theirs)
        for name, tensor in reference.state[theirs].items():
            assert torch.equal(optimizer.state[ours][name], tensor)


@pytest.mark.parametrize("state", ["8bit", "32bit"])
@pytest.mark.parametrize(
    "family", ["Adam", "AdamW", "AdEMAMix", "Lion", "SGD", "RMSprop", "Adagrad", "LAMB", "LARS"]
)
def test_every_family_has_a_paged_form(family, state):
    """D24: that of AdEMAMix raised on the CPU."""
    options = {"lr": 0.01} | ({"momentum": 0.9} if family in ("SGD", "LARS") else {})
    optimizer = getattr(kq_optim, f"Paged{family}{state}")(parameters(LARGE), **options)
    reference = getattr(kq_optim, f"{family}{state}")(parameters(LARGE), **options)
    train(optimizer)
    train(reference)
    (ours,), (theirs,) = (each.param_groups[0]["params"] for each in (optimizer, reference))
    assert torch.equal(ours, theirs)
    kept = reference.state[theirs]
    for name, tensor in optimizer.state[ours].items():
        assert torch.equal(tensor, kept[name])
        assert paged.is_paged(tensor) == name.startswith("state")


def test_only_large_tensors_have_files():
    large, small = parameters(LARGE, (64, 65))
    optimizer = PagedAdamW8bit([large, small])
    train(optimizer)
    files = {name for name, tensor in optimizer.state[large].items() if paged.is_paged(tensor)}
    assert files == {"state1", "state2"}  # the scales are 256 times fewer
    assert not any(paged.is_paged(tensor) for tensor in optimizer.state[small].values())


def test_files_are_nameless_where_they_were_asked_for_and_die_with_the_optimizer(tmp_path):
    optimizer = PagedAdamW8bit(parameters(LARGE), paged_directory=tmp_path)
    assert optimizer.param_groups[0]["paged_directory"] == str(tmp_path)
    train(optimizer)
    with open("/proc/self/maps") as maps:
        mapped = [line for line in maps if str(tmp_path) in line]
    assert len(mapped) == 2
    assert all("(deleted)" in line for line in mapped)
    assert os.listdir(tmp_path) == []
    del optimizer
    with open("/proc/self/maps") as maps:
        assert not any(str(tmp_path) in line for line in maps)


def test_stepped_state_leaves_the_process(monkeypatch):
    """The resident set holds less than two portions, of the state's twelve."""
    monkeypatch.setattr(paged, "BATCH_BYTES", 1 << 18)
    optimizer = PagedLion8bit(parameters(*[(256, 512)] * 24))
    train(optimizer, 1)
    before = resident_bytes()  # all else is loaded
    train(optimizer, 1)
    assert resident_bytes() - before < 1 << 19
    states = [optimizer.state[param]["state1"] for param in optimizer.param_groups[0]["params"]]
    assert sum(tensor.nbytes for tensor in states) == 3 << 20


def test_copies_are_paged_and_independent():
    optimizer = PagedAdamW8bit(parameters(LARGE))
    train(optimizer)
    for clone in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        (param,) = clone.param_groups[0]["params"]
        assert paged.is_paged(clone.state[param]["state1"])
        expected = copy.deepcopy(optimizer)
        train(clone)
        train(expected)
        assert torch.equal(param, expected.param_groups[0]["params"][0])


def test_override_and_groups_choose_the_placement():
    first, second, third = parameters(LARGE, LARGE, LARGE)
    optimizer = AdamW8bit([{"params": [first, second]}, {"params": [third], "placement": "paged"}])
    optimizer.override(second, placement="paged")
    for param in (first, second, third):
        param.grad = torch.ones_like(param)
    optimizer.step()
    found = [paged.is_paged(optimizer.state[param]["state1"]) for param in (first, second, third)]
    assert found == [False, True, True]


def test_a_full_disk_is_reported_before_anything_is_stepped(tmp_path, monkeypatch):
    params = parameters(LARGE, LARGE)
    before = [param.detach().clone() for param in params]
    optimizer = PagedAdamW8bit(params, paged_directory=tmp_path)
    reserve, calls = os.posix_fallocate, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no room for 104000 bytes of paged optimizer state") as error:
        train(optimizer)
    assert error.value.errno == errno.ENOSPC
    assert not any(optimizer.state.values())
    assert os.listdir(tmp_path) == []
    for param, old in zip(params, before, strict=True):
        assert torch.equal(param, old)
    monkeypatch.setattr(os, "posix_fallocate", reserve)
    train(optimizer)  # when there is room again


@pytest.mark.parametrize("value", [3, "/no/such/directory"])
def test_the_directory_must_exist(value):
    with pytest.raises((TypeError, ValueError), match="paged_directory must be a"):
        PagedAdamW8bit(parameters((3,)), paged_directory=value)


def test_other_devices_are_refused():
    param = torch.nn.Parameter(torch.ones(3, device="meta"))
    with pytest.raises(NotImplementedError, match=r"placement='paged' .*meta"):
        PagedAdamW8bit([param])
    optimizer = AdamW8bit([param])
    with pytest.raises(NotImplementedError, match=r"placement='paged' .*meta"):
        optimizer.override(param, placement="paged")


def test_advice_never_reaches_other_memory():
    """Ordinary memory that is advised away would be zeros afterwards."""
    tensor = torch.ones(1 << 20)
    paged.Paged(None).release([tensor])
    assert torch.equal(tensor, torch.ones(1 << 20))
    mapped = paged.Paged(None).empty((1 << 20,), torch.float32, torch.device("cpu")).fill_(1)
    paged.Paged(None).release([mapped])
    assert torch.equal(mapped, torch.ones(1 << 20))
