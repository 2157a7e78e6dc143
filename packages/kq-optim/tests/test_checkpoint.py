"""Saving and resuming: bit-identical, whatever torch or the transport do to tensors."""

import copy
import pickle

import pytest
import torch
from training_steps import copies, through_file, train

from kq_optim import Adam, Adam8bit, Adam32bit, AdamW, AdamW8bit, AdamW32bit

CLASSES = [Adam, AdamW, Adam8bit, AdamW8bit, Adam32bit, AdamW32bit]
SHAPES = [(80, 64), (33,), (64, 65)]  # 8-bit, small (32-bit), 8-bit with a tail block


def make_params(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]


def assert_same_state(left, right):
    assert left.keys() == right.keys()
    for key in left:
        assert left[key].keys() == right[key].keys()
        for name, tensor in left[key].items():
            assert tensor.dtype == right[key][name].dtype, name
            assert torch.equal(tensor, right[key][name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cls", CLASSES)
def test_resume_is_bit_identical(cls, dtype):
    params = make_params(dtype)
    optimizer = cls(params, lr=1e-2)
    train(optimizer, params, 3)
    saved = through_file(optimizer.state_dict())
    resumed_params = copies(params)
    resumed = cls(resumed_params, lr=5.0)  # hyperparameters come from the checkpoint
    resumed.load_state_dict(saved)
    assert_same_state(optimizer.state_dict()["state"], resumed.state_dict()["state"])
    train(optimizer, params, 3, start=3)
    train(resumed, resumed_params, 3, start=3)
    for left, right in zip(params, resumed_params, strict=True):
        assert torch.equal(left, right)
    assert_same_state(optimizer.state_dict()["state"], resumed.state_dict()["state"])
    assert resumed.param_groups[0]["lr"] == 1e-2


def test_torch_would_have_cast_the_state():
    """The trap itself, so that this test fails when torch no longer sets it."""
    params = make_params(torch.bfloat16)
    optimizer = AdamW8bit(params)
    train(optimizer, params, 1)
    saved = optimizer.state_dict()
    torch.optim.Optimizer.load_state_dict(optimizer, saved)
    assert optimizer.state[params[0]]["absmax1"].dtype == torch.bfloat16


def test_loading_does_not_alias_the_state_dict():
    params = make_params()
    optimizer = AdamW8bit(params)
    train(optimizer, params, 2)
    saved = optimizer.state_dict()
    snapshot = copy.deepcopy(saved)
    others = copies(params)
    other = AdamW8bit(others)
    other.load_state_dict(saved)
    train(other, others, 2, start=2)
    assert_same_state(saved["state"], snapshot["state"])
    assert saved["param_groups"] == snapshot["param_groups"]


def test_pickle_and_deepcopy_continue_identically():
    params = make_params()
    optimizer = AdamW8bit(params)
    optimizer.override(params[0], lr=0.5)
    train(optimizer, params, 2)
    for clone in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        clone_params = clone.param_groups[0]["params"]
        expected = copy.deepcopy(optimizer)
        train(clone, clone_params, 2, start=2)
        train(expected, expected.param_groups[0]["params"], 2, start=2)
        for left, right in zip(clone_params, expected.param_groups[0]["params"], strict=True):
            assert torch.equal(left, right)


def test_overrides_are_saved_and_restored():
    params = make_params()
    optimizer = AdamW8bit(params)
    optimizer.override(params[0], lr=0.5, state="32bit")
    train(optimizer, params, 2)
    saved = through_file(optimizer.state_dict())
    others = copies(params)
    other = AdamW8bit(others)
    with pytest.raises(ValueError, match=r"saved as 32-bit state.*keeps 8-bit state"):
        other.load_state_dict(saved)
    other.override(others[0], state="32bit")
    other.load_state_dict(saved)
    train(optimizer, params, 2, start=2)
    train(other, others, 2, start=2)
    for left, right in zip(params, others, strict=True):
        assert torch.equal(left, right)


def test_state_of_parameters_that_took_no_step():
    params = make_params()
    optimizer = AdamW8bit(params)
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
    assert optimizer.state[params[1]] == {}  # looking creates an empty entry, as in torch
    other = AdamW8bit(copies(params))
    other.load_state_dict(through_file(optimizer.state_dict()))
    assert len(other.state) == 1


def test_extra_group_entries_survive():
    params = make_params()
    optimizer = AdamW8bit([{"params": params, "initial_lr": 0.25, "note": ["a"]}])
    other = AdamW8bit([{"params": copies(params)}])
    other.load_state_dict(through_file(optimizer.state_dict()))
    assert other.param_groups[0]["initial_lr"] == 0.25
    assert other.param_groups[0]["note"] == ["a"]


def test_how_state_is_kept_does_not_come_from_the_checkpoint():
    """An optimizer stays what it was made (D15: paged state came back un-paged)."""
    params = make_params()[:1]
    optimizer = AdamW8bit(params, min_8bit_size=2)
    train(optimizer, params, 1)
    other = AdamW8bit(copies(params), min_8bit_size=1)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["min_8bit_size"] == 1


def test_adam_state_can_continue_in_adamw():
    """Same rule, same state: only the decay differs, and that belongs to the class."""
    params = make_params()
    optimizer = Adam8bit(params)
    train(optimizer, params, 1)
    other = AdamW8bit(copies(params))
    other.load_state_dict(optimizer.state_dict())
    assert other._update(other.param_groups[0]).decoupled


def test_hooks_run():
    params = make_params()
    optimizer = AdamW8bit(params)
    calls = []

    def rename(_optimizer, state_dict):
        calls.append("before")
        return {"state": state_dict["state"], "param_groups": state_dict["groups"]}

    optimizer.register_load_state_dict_pre_hook(rename)
    optimizer.register_load_state_dict_post_hook(lambda _optimizer: calls.append("after"))
    saved = optimizer.state_dict()
    optimizer.load_state_dict({"state": saved["state"], "groups": saved["param_groups"]})
    assert calls == ["before", "after"]


def drop(*path):
    def damage(state_dict):
        target = state_dict
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]

    return damage


def put(value, *path):
    def damage(state_dict):
        target = state_dict
        for key in path[:-1]:
            target = target[key]
        old = target[path[-1]]
        target[path[-1]] = value(old) if callable(value) else value

    return damage


def flip(position, bit):
    def damage(state_dict):
        state_dict["state"][0]["format"][position] ^= 1 << bit

    return damage


DAMAGES = {
    "no state": (drop("state"), "lacks 'state'"),
    "no groups": (drop("param_groups"), "lacks 'param_groups'"),
    "state of wrong type": (put([], "state"), "must be a dict, got list"),
    "groups of wrong type": (put({}, "param_groups"), "must be a list, got dict"),
    "no lr": (drop("param_groups", 0, "lr"), "lacks lr"),
    "no params": (drop("param_groups", 0, "params"), "lacks params"),
    "negative lr": (put(-1.0, "param_groups", 0, "lr"), "lr must be finite and not negative"),
    "betas cut short": (put((0.9,), "param_groups", 0, "betas"), "betas must be 2 numbers"),
    "one group more": (put(lambda g: g + g, "param_groups"), "has 2 param_groups"),
    "a parameter less": (put([0, 1], "param_groups", 0, "params"), "has 2 params"),
    "state of nobody": (put(lambda s: s | {9: s[0]}, "state"), r"no parameter: \[9\]"),
    "state is a tensor": (put(torch.ones(1), "state", 1), "must be a dict, got Tensor"),
    "no codes": (drop("state", 0, "state1"), r"missing \['state1'\]"),
    "no scales": (drop("state", 2, "absmax2"), r"missing \['absmax2'\]"),
    "no step": (drop("state", 0, "step"), r"missing \['step'\]"),
    "no format": (drop("state", 0, "format"), r"missing \['format'\]"),
    "foreign entry": (put(lambda s: s | {"qmap1": torch.ones(256)}, "state", 0), "qmap1"),
    "step is a number": (put(3, "state", 0, "step"), "step must be a tensor, got int"),
    "step negative": (put(torch.tensor(-1), "state", 0, "step"), "step must not be negative"),
    "codes cast": (put(lambda t: t.float(), "state", 0, "state1"), "state1 must be torch.uint8"),
    "scales cast": (put(lambda t: t.bfloat16(), "state", 0, "absmax1"), "must be torch.float32"),
    "codes cut": (put(lambda t: t[:-1], "state", 0, "state1"), r"uint8 \[80, 64\], got"),
    "scales cut": (put(lambda t: t[:-1], "state", 0, "absmax2"), r"\[20\], got"),
    "format cut": (put(lambda t: t[:2], "state", 0, "format"), "unreadable format"),
    "format cast": (put(lambda t: t.float(), "state", 0, "format"), "format must be torch.int32"),
    "codes swapped": (put(lambda s: {**s, 0: s[2], 2: s[0]}, "state"), "got torch.uint8"),
    **{
        f"format bit {bit} of {position}": (flip(position, bit), "saved as")
        for position in range(6)
        for bit in (0, 1, 8)
    },
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_checkpoint_is_refused_and_changes_nothing(name):
    damage, message = DAMAGES[name]
    params = make_params()
    donor = AdamW8bit(params)
    train(donor, params, 1)
    saved = copy.deepcopy(donor.state_dict())
    damage(saved)
    targets = make_params()
    optimizer = AdamW8bit(targets, lr=0.125)
    train(optimizer, targets, 2)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises((ValueError, TypeError), match=message):
        optimizer.load_state_dict(saved)
    assert_same_state(optimizer.state_dict()["state"], before["state"])
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]
    train(optimizer, targets, 1, start=2)  # still works


def test_wrong_codec_is_refused():
    params = make_params()
    optimizer = AdamW8bit(params)
    train(optimizer, params, 1)
    other = AdamW32bit(make_params())
    with pytest.raises(ValueError, match=r"saved as 8-bit state.*keeps 32-bit state"):
        other.load_state_dict(optimizer.state_dict())
    assert not other.state


def test_not_a_dict():
    with pytest.raises(TypeError, match="state_dict must be a dict, got list"):
        AdamW8bit(make_params()).load_state_dict([])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({7: {"lr": 0.1}}, "override of no parameter: 7"),
        ({0: {"momentum": 0.1}}, "override of no option: 'momentum'"),
        ({0: {"lr": -1.0}}, "lr must be"),
    ],
)
def test_damaged_overrides_are_refused(overrides, message):
    optimizer = AdamW8bit(make_params())
    saved = optimizer.state_dict()
    saved["param_groups"][0]["overrides"] = overrides
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
