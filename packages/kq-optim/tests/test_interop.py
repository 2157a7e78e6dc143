"""What of bitsandbytes' checkpoints is refused; `interop/` compares with bitsandbytes itself."""

import copy

import pytest
import torch

import kq_optim
from kq_optim import export_bitsandbytes, import_bitsandbytes

WRAPPED = "__bnb_optimizer_quant_state__"


def stepped(cls, size=5000, **options):
    param = torch.nn.Parameter(torch.linspace(-1, 1, size))
    param.grad = torch.linspace(1, 2, size)
    optimizer = cls([param], lr=0.01, **options)
    optimizer.step()
    return optimizer


def parameter(optimizer):
    return optimizer.param_groups[0]["params"][0]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (kq_optim.AdamW8bit, {}),
        (kq_optim.PagedAdamW8bit, {}),
        (kq_optim.AdamW32bit, {}),
        (kq_optim.AdEMAMix8bit, {"t_alpha": 3}),
        (kq_optim.Lion8bit, {}),
        (kq_optim.SGD8bit, {"momentum": 0.5}),
        (kq_optim.LAMB8bit, {"max_unorm": 1.0}),
        (kq_optim.LARS8bit, {"max_unorm": 0.02, "momentum": 0.5}),
    ],
)
def test_round_trip_is_exact(cls, options, wrapped):
    optimizer = stepped(cls, **options)
    other = cls([torch.nn.Parameter(parameter(optimizer).detach().clone())], lr=1.0, **options)
    import_bitsandbytes(other, export_bitsandbytes(optimizer, wrapped=wrapped))
    for name, tensor in optimizer.state[parameter(optimizer)].items():
        assert torch.equal(other.state[parameter(other)][name], tensor), name
    for name in optimizer.param_groups[0].keys() - {"params"}:
        assert other.param_groups[0][name] == optimizer.param_groups[0][name], name


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (kq_optim.Adam8bit, {"weight_decay": 0.1}, "decoupled=True in bitsandbytes"),
        (kq_optim.Adam8bit, {"amsgrad": True}, "'adam' here, not 'amsgrad'"),
        (kq_optim.AdamW8bit, {"maximize": True}, "maximize=False only, got True"),
        (kq_optim.LAMB8bit, {}, "'lamb_clipped' here, not 'lamb'"),
        (kq_optim.LAMB8bit, {"max_unorm": 1.0, "adam_w_mode": False}, "adam_w_mode=True only"),
        (kq_optim.LARS8bit, {}, "'lars_clipped' here, not 'lars'"),
        (kq_optim.SGD8bit, {}, "'momentum' here, not 'sgd'"),
        (kq_optim.SGD8bit, {"momentum": 0.5, "nesterov": True}, "nesterov=False only"),
        (kq_optim.SGD8bit, {"momentum": 0.5, "dampening": 0.5}, "dampening=0.0 only"),
        (kq_optim.RMSprop8bit, {"momentum": 0.5}, "not 'rmsprop_momentum'"),
        (kq_optim.Adagrad8bit, {"lr_decay": 0.5}, "lr_decay=0.0 only"),
        (kq_optim.Lion8bit, {"rounding": "corrected"}, "rounding='nearest' only"),
    ],
)
def test_what_bitsandbytes_would_continue_otherwise_is_not_exported(cls, options, message):
    with pytest.raises(ValueError, match=message):
        export_bitsandbytes(stepped(cls, **options))


def test_overrides_are_not_exported():
    optimizer = stepped(kq_optim.AdamW8bit)
    optimizer.override(parameter(optimizer), lr=0.5)
    with pytest.raises(ValueError, match="overrides"):
        export_bitsandbytes(optimizer)


def test_coupled_decay_is_not_imported_silently():
    saved = export_bitsandbytes(stepped(kq_optim.AdamW8bit))
    other = stepped(kq_optim.Adam8bit)
    with pytest.raises(ValueError, match=r"weight_decay=0.01 is decoupled=True in bitsandbytes"):
        import_bitsandbytes(other, saved)
    import_bitsandbytes(stepped(kq_optim.Adam8bit, decoupled=True), saved)


def test_rounding_starts_with_the_import():
    saved = export_bitsandbytes(stepped(kq_optim.AdamW8bit))
    for rounding, name in (("corrected", "correction"), ("stochastic", "seed")):
        param = torch.nn.Parameter(torch.ones(5000, dtype=torch.bfloat16))
        optimizer = kq_optim.AdamW8bit([param], rounding=rounding)
        import_bitsandbytes(optimizer, saved)
        assert name in optimizer.state[param]
        param.grad = torch.ones_like(param)
        optimizer.step()


def put(value, *path):
    def damage(saved):
        target = saved
        for key in path[:-1]:
            target = target[key]
        old = target[path[-1]]
        target[path[-1]] = value(old) if callable(value) else value

    return damage


TENSORS = ("state", 0, WRAPPED)
DAMAGES = {
    "no state": (lambda s: s.pop("state"), r"state_dict\['state'\] must be a dict"),
    "no groups": (lambda s: s.pop("param_groups"), r"\['param_groups'\] must be a list"),
    "one group more": (put(lambda g: g + g, "param_groups"), "has 2 param_groups"),
    "a parameter more": (put([0, 1], "param_groups", 0, "params"), "has 2 params"),
    "no lr": (lambda s: s["param_groups"][0].pop("lr"), "the group lacks lr"),
    "bad betas": (put((0.9,), "param_groups", 0, "betas"), "betas must be 2 numbers"),
    "state is a tensor": (put(torch.ones(1), "state", 0), "must be a dict"),
    "no step": (lambda s: s["state"][0].pop("step"), "step must be an int"),
    "no codes": (lambda s: s["state"][0][WRAPPED].pop("state1"), "state1 must be a tensor"),
    "no scales": (lambda s: s["state"][0][WRAPPED].pop("absmax2"), "absmax2 must be a tensor"),
    "codes cut": (put(lambda t: t[:-1], *TENSORS, "state1"), r"state1 must be .*\[5000\], got"),
    "scales cut": (put(lambda t: t[:-1], *TENSORS, "absmax1"), r"\[20\], got"),
    "another map": (put(lambda t: t * 2, *TENSORS, "qmap1"), "qmap1 is not the signed dynamic"),
    "maps swapped": (put(lambda t: -t.flip(0), *TENSORS, "qmap2"), "not the unsigned dynamic"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_checkpoints_are_refused_and_change_nothing(name):
    damage, message = DAMAGES[name]
    saved = export_bitsandbytes(stepped(kq_optim.AdamW8bit))
    damage(saved)
    optimizer = stepped(kq_optim.AdamW8bit)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises((TypeError, ValueError), match=message):
        import_bitsandbytes(optimizer, saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for key, tensor in before["state"][0].items():
        assert torch.equal(after["state"][0][key], tensor)


def test_other_numbers_of_states_are_refused():
    saved = export_bitsandbytes(stepped(kq_optim.Lion8bit))
    with pytest.raises(ValueError, match="state2 must be a tensor"):
        import_bitsandbytes(
            stepped(kq_optim.AdamW8bit),
            saved
            | {"param_groups": export_bitsandbytes(stepped(kq_optim.AdamW8bit))["param_groups"]},
        )
    saved = export_bitsandbytes(stepped(kq_optim.AdEMAMix8bit))
    saved["state"][0][WRAPPED]["state1"] = torch.zeros(5000, dtype=torch.uint8)
    with pytest.raises(ValueError, match="state1 must have two rows"):
        import_bitsandbytes(stepped(kq_optim.AdEMAMix8bit), saved)


def test_negative_squares_are_refused():
    saved = export_bitsandbytes(stepped(kq_optim.RMSprop8bit))
    saved["state"][0][WRAPPED]["state1"].zero_()  # the code of -0.99
    with pytest.raises(ValueError, match="state1 holds squares, but some are negative"):
        import_bitsandbytes(stepped(kq_optim.RMSprop8bit), saved)


def test_other_optimizers_have_no_counterpart():
    class Other(kq_optim.Optimizer):
        checks = kq_optim.SGD.checks

    optimizer = stepped(kq_optim.SGD)
    optimizer.__class__ = Other
    with pytest.raises(TypeError, match="no optimizer like Other"):
        export_bitsandbytes(optimizer)
