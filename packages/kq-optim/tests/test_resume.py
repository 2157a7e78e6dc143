"""Training resumes bit for bit: every rule, codec, rounding, placement, and from one to another."""

import pytest
import torch
from training_steps import copies, through_file, train

import kq_optim
from kq_optim.paged import is_paged

SHAPES = [(20, 30), (33,), (2, 256)]  # a tail block; small; whole blocks
LARGE = [(400, 260), *SHAPES]  # the first is large enough for a file
RULES = [
    ("Adam", {"weight_decay": 0.1}),
    ("AdamW", {"amsgrad": True}),
    ("AdEMAMix", {"t_alpha": 5, "t_beta3": 5}),
    ("Lion", {}),
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "dampening": 0.1}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True, "eps": 0.1}),
    ("RMSprop", {"centered": True, "momentum": 0.9, "eps": 0.1}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    ("LAMB", {"weight_decay": 0.1}),
    ("LAMB", {"max_unorm": 1.0}),
    ("LARS", {"momentum": 0.9}),
    ("LARS", {"momentum": 0.9, "max_unorm": 0.02}),
]
IDS = [f"{name}-{'-'.join(options)}" for name, options in RULES]


def parameters(dtype, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def resume(name, options, before, after, shapes=SHAPES):
    params = parameters(torch.bfloat16, shapes)
    optimizer = getattr(kq_optim, name)(params, lr=1e-2, **options, **before)
    train(optimizer, params, 2)
    saved = through_file(optimizer.state_dict())
    others = copies(params)
    resumed = getattr(kq_optim, name)(others, lr=0.5, **after)  # hyperparameters are in the file
    resumed.load_state_dict(saved)
    train(optimizer, params, 2, start=2)
    train(resumed, others, 2, start=2)
    for left, right in zip(params, others, strict=True):
        assert torch.equal(left, right)
        ours, theirs = optimizer.state[left], resumed.state[right]
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert tensor.dtype == theirs[key].dtype, key
            assert torch.equal(tensor, theirs[key]), key
    return resumed


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "corrected"])
@pytest.mark.parametrize("state", ["32bit", "8bit"])
@pytest.mark.parametrize(("name", "options"), RULES, ids=IDS)
def test_every_rule_codec_and_rounding(name, options, state, rounding):
    storage = {"state": state, "min_8bit_size": 100, "rounding": rounding}
    resume(name, options, storage, storage)


@pytest.mark.parametrize("after", ["resident", "paged"])
@pytest.mark.parametrize("before", ["resident", "paged"])
@pytest.mark.parametrize("state", ["32bit", "8bit"])
def test_between_placements(state, before, after):
    """The optimizer stays what it was made (D15: paged state came back un-paged)."""
    storage = {"state": state, "rounding": "corrected"}
    resumed = resume(
        "AdamW",
        {},
        {**storage, "placement": before},
        {**storage, "placement": after},
        LARGE,
    )
    large, small, *_ = (resumed.state[param] for param in resumed.param_groups[0]["params"])
    for name in ("state1", "state2", "correction"):
        assert is_paged(large[name]) == (after == "paged")
        assert not is_paged(small.get(name, torch.ones(1)))


def test_a_directory_that_is_gone_does_not_matter(tmp_path):
    params = parameters(torch.float32, LARGE)
    directory = tmp_path / "disk"
    directory.mkdir()
    optimizer = kq_optim.PagedAdamW8bit(params, paged_directory=directory)
    optimizer.override(params[1], paged_directory=str(directory))
    train(optimizer, params, 1)
    directory.rmdir()
    other = kq_optim.PagedAdamW8bit(copies(params), paged_directory=tmp_path)
    other.load_state_dict(through_file(optimizer.state_dict()))
    assert other.param_groups[0]["paged_directory"] == str(tmp_path)
    assert is_paged(other.state[other.param_groups[0]["params"][0]]["state1"])


def test_version_1_is_read():
    """As this package wrote it before rounding and the other rules came."""
    params = parameters(torch.float32)
    optimizer = kq_optim.AdamW8bit(params, min_8bit_size=100)
    train(optimizer, params, 2)
    saved = through_file(optimizer.state_dict())
    for state in saved["state"].values():
        version, *ids = state["format"].tolist()
        assert version == 2
        state["format"] = torch.tensor([1, *ids[:3], *ids[4:]], dtype=torch.int32)
    for name in ("amsgrad", "paged_directory", "rounding"):
        del saved["param_groups"][0][name]
    others = copies(params)
    resumed = kq_optim.AdamW8bit(others, min_8bit_size=100)
    resumed.load_state_dict(saved)
    assert (
        resumed.state[others[0]]["format"].tolist() == optimizer.state[params[0]]["format"].tolist()
    )
    train(optimizer, params, 2, start=2)
    train(resumed, others, 2, start=2)
    for left, right in zip(params, others, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    ("made", "loaded", "message"),
    [
        (kq_optim.Adam8bit, kq_optim.LAMB8bit, r"lacks bias_correction"),
        (kq_optim.Lion8bit, kq_optim.Adam8bit, r"betas|lacks eps"),
        (kq_optim.LAMB8bit, kq_optim.Adam8bit, r"rule lamb.*keeps.*rule adam"),
    ],
)
def test_state_of_another_family_is_refused(made, loaded, message):
    params = parameters(torch.float32)
    optimizer = made(params)
    train(optimizer, params, 1)
    other = loaded(copies(params))
    with pytest.raises((TypeError, ValueError), match=message):
        other.load_state_dict(optimizer.state_dict())
    assert not other.state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 0.9, "nesterov": True, "dampening": 0.5}, "nesterov=True needs"),
        ({"momentum": 0.0}, r"rule momentum.*rule sgd"),
    ],
)
def test_saved_options_must_select_the_saved_rule(options, message):
    params = parameters(torch.float32)
    optimizer = kq_optim.SGD(params, momentum=0.9)
    train(optimizer, params, 1)
    saved = optimizer.state_dict()
    saved["param_groups"][0].update(options)
    other = kq_optim.SGD(copies(params), momentum=0.9)
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(saved)
    assert not other.state
    assert other.param_groups[0]["momentum"] == 0.9


def test_a_rule_cannot_change_under_its_state():
    params = parameters(torch.float32)
    optimizer = kq_optim.RMSprop8bit(params, momentum=0.9)
    train(optimizer, params, 1)
    before = [param.detach().clone() for param in params]
    optimizer.param_groups[0].update(momentum=0.0, centered=True)
    with pytest.raises(ValueError, match=r"rule rmsprop_momentum.*rule rmsprop_centered.*cannot"):
        train(optimizer, params, 1)
    for param, old in zip(params, before, strict=True):
        assert torch.equal(param, old)
