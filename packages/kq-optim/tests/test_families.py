"""Every family under every name: signatures, and arithmetic against torch or the formula."""

import inspect
import math

import pytest
import torch

import kq_functional as kq
import kq_optim
from kq_optim.codecs import code_map
from kq_optim.rules import RULE_IDS

FAMILIES = ["Adam", "AdamW", "AdEMAMix", "Lion", "SGD", "RMSprop", "Adagrad", "LAMB", "LARS"]
FORMS = ["{}", "{}8bit", "{}32bit", "Paged{}", "Paged{}8bit", "Paged{}32bit"]
NAMES = [form.format(family) for family in FAMILIES for form in FORMS]
U = 2.0**-24

# Hyperparameters that reach every rule.
RULES = {
    "adam": ("Adam", {}),
    "adam, decoupled": ("Adam", {"decoupled": True}),
    "adamw": ("AdamW", {}),
    "amsgrad": ("Adam", {"amsgrad": True}),
    "ademamix": ("AdEMAMix", {"alpha": 2.0}),
    "ademamix, scheduled": ("AdEMAMix", {"t_alpha": 6, "t_beta3": 6}),
    "lion": ("Lion", {}),
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "momentum, dampened": ("SGD", {"momentum": 0.9, "dampening": 0.5}),
    "momentum, nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "rmsprop": ("RMSprop", {"alpha": 0.5}),
    "rmsprop_momentum": ("RMSprop", {"alpha": 0.5, "momentum": 0.9}),
    "rmsprop_centered": ("RMSprop", {"alpha": 0.5, "centered": True}),
    "rmsprop_centered_momentum": ("RMSprop", {"alpha": 0.5, "centered": True, "momentum": 0.9}),
    "adagrad": ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.25}),
    "lamb": ("LAMB", {}),
    "lamb, uncorrected": ("LAMB", {"bias_correction": False}),
    "lamb, coupled": ("LAMB", {"adam_w_mode": False}),
    "lamb_clipped": ("LAMB", {"max_unorm": 1e-3}),
    "lars": ("LARS", {"momentum": 0.9}),
    "lars_clipped": ("LARS", {"momentum": 0.9, "nesterov": True, "max_unorm": 1e-3}),
}


def make(rule, params, *, form="{}", **options):
    family, own = RULES[rule]
    return getattr(kq_optim, form.format(family))(params, **{"lr": 1e-2, **own, **options})


def drawn(shape, seed):
    """Positive and of the size of one: sums of such values do not cancel."""
    return 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_every_name_exists():
    assert set(NAMES) < set(kq_optim.__all__)
    assert len(NAMES) == 54
    for name in NAMES:
        assert getattr(kq_optim, name).__name__ == name
        assert getattr(kq_optim, name).__doc__


def test_every_rule_has_a_number_of_its_own():
    assert set(RULE_IDS) == set(kq.RULES)
    assert len(set(RULE_IDS.values())) == len(RULE_IDS)


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_spelled_out(name):
    cls = getattr(kq_optim, name)
    arguments = inspect.signature(cls).parameters
    assert all(a.kind is not a.VAR_KEYWORD for a in arguments.values())
    assert ("state" in arguments) == ("bit" not in name)
    assert ("placement" in arguments) == ("Paged" not in name)
    assert arguments["rounding"].default == "nearest"
    assert next(iter(arguments)) == "params"
    optimizer = cls([torch.nn.Parameter(torch.ones(2))], **({"lr": 1.0} if "LARS" in name else {}))
    for argument in arguments.values():
        if argument.default is not argument.empty:
            assert optimizer.param_groups[0][argument.name] == argument.default


def test_subclasses_may_have_constructors_of_their_own():
    class Mine(kq_optim.PagedAdamW8bit):
        def __init__(self, model, rate):
            super().__init__(model.parameters(), lr=rate)

    assert list(inspect.signature(Mine).parameters) == ["model", "rate"]
    group = Mine(torch.nn.Linear(2, 2), 0.5).param_groups[0]
    assert (group["lr"], group["state"], group["placement"]) == (0.5, "8bit", "paged")


@pytest.mark.parametrize("name", NAMES)
def test_names_fix_what_they_say(name):
    cls = getattr(kq_optim, name)
    params = [torch.nn.Parameter(torch.ones(2))]
    group = cls(params, lr=0.1).param_groups[0]
    assert group["state"] == ("8bit" if "8bit" in name else "32bit")
    assert group["placement"] == ("paged" if "Paged" in name else "resident")
    if "bit" in name:
        with pytest.raises(TypeError, match=f"{name} does not take state"):
            cls(params, lr=0.1, state="8bit")
    if "Paged" in name:
        with pytest.raises(TypeError, match=f"{name} does not take placement"):
            cls(params, lr=0.1, placement="paged")


@pytest.mark.parametrize(
    "argument",
    ["optim_bits", "is_paged", "args", "skip_zeros", "block_wise", "percentile_clipping", "fused"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_arguments_that_are_not_implemented_are_refused(family, argument):
    with pytest.raises(TypeError, match=argument):
        getattr(kq_optim, family)([torch.nn.Parameter(torch.ones(2))], lr=0.1, **{argument: None})


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("SGD", {"nesterov": True}, "nesterov=True needs momentum"),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "dampening=0.1"),
        ("SGD", {"momentum": 1.0}, "momentum must be below 1"),
        ("LARS", {"nesterov": True}, "nesterov=True needs momentum"),
        ("LARS", {"max_unorm": 0.1, "trust_coefficient": 0.1}, "max_unorm has no eps"),
        ("LARS", {"max_unorm": 0.1, "eps": 0.1}, "max_unorm has no eps"),
        ("LAMB", {"max_unorm": 0.1, "bias_correction": False}, "bias_correction=False"),
        ("LAMB", {"max_unorm": -0.1}, "max_unorm must be finite"),
        ("RMSprop", {"alpha": 1.0}, "alpha must be below 1"),
        ("Adagrad", {"initial_accumulator_value": -1.0}, "initial_accumulator_value must be"),
        ("Adagrad", {"lr_decay": -1.0}, "lr_decay must be"),
        ("AdEMAMix", {"t_beta3": 5, "betas": (0.9, 0.9, 0.5)}, "t_beta3 needs betas"),
        ("AdEMAMix", {"t_alpha": -5}, "t_alpha must not be negative"),
    ],
)
def test_options_that_exclude_each_other(family, options, message):
    params = [torch.nn.Parameter(torch.ones(2))]
    with pytest.raises(ValueError, match=message):
        getattr(kq_optim, family)(params, lr=0.1, **options)
    if family == "SGD":  # however they get there
        optimizer = kq_optim.SGD(params, lr=0.1)
        with pytest.raises(ValueError, match=message):
            optimizer.override(params[0], **options)
        with pytest.raises(ValueError, match=message):
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], **options})


AS_TORCH = [
    ("Adam", "Adam", {}),
    ("Adam", "Adam", {"weight_decay": 0.1, "amsgrad": True}),
    ("Adam", "AdamW", {"weight_decay": 0.1, "decoupled": True}),
    ("AdamW", "AdamW", {"weight_decay": 0.1}),
    ("AdamW", "AdamW", {"amsgrad": True, "betas": (0.5, 0.9), "maximize": True}),
    ("SGD", "SGD", {}),
    ("SGD", "SGD", {"weight_decay": 0.1, "maximize": True}),
    ("SGD", "SGD", {"momentum": 0.9}),
    ("SGD", "SGD", {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    ("SGD", "SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("RMSprop", "RMSprop", {"weight_decay": 0.1}),
    ("RMSprop", "RMSprop", {"alpha": 0.5, "momentum": 0.9}),
    ("RMSprop", "RMSprop", {"alpha": 0.5, "centered": True}),
    ("RMSprop", "RMSprop", {"alpha": 0.5, "centered": True, "momentum": 0.9}),
    ("Adagrad", "Adagrad", {"weight_decay": 0.1}),
    ("Adagrad", "Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5}),
]


@pytest.mark.parametrize(("ours", "theirs", "options"), AS_TORCH)
def test_defaults_and_arithmetic_are_those_of_torch(ours, theirs, options):
    """Ten steps against torch in float64.

    All values are positive, so relative errors add up: at most 24 roundings of float32 in a step
    (constants included), in all of ten steps. The centered variance is a difference: the roundings
    of its terms count as often as it is smaller than they are, which torch's own state tells.
    """
    shape = (40, 3)
    param = torch.nn.Parameter(drawn(shape, 0) * 4)
    exact = torch.nn.Parameter(param.detach().double())
    optimizer = getattr(kq_optim, ours)([param], **options)
    same = {name: value for name, value in options.items() if name != "decoupled"}
    reference = getattr(torch.optim, theirs)([exact], **same, foreach=False)
    amplified = 1.0
    for step in range(1, 11):
        param.grad = drawn(shape, step) * (1 if step % 2 else 4)
        exact.grad = param.grad.double()
        optimizer.step()
        reference.step()
        state = reference.state[exact]
        if options.get("centered"):
            square, mean = state["square_avg"], state["grad_avg"]
            amplified = max(amplified, (square / (square - mean**2)).max().item())
    moved = (exact - param.detach()).abs()
    travelled = sum(abs(group["lr"]) for group in reference.param_groups) * 10 * 4
    scale = exact.abs() + travelled  # what roundings are relative to
    assert (moved <= 10 * 24 * amplified * U * scale).all()
    assert not torch.equal(exact.float(), drawn(shape, 0) * 4)


def norm(x):
    return x.pow(2).sum().sqrt()


def ademamix(p, g, t, s, lr, wd):
    b1, b2, b3, alpha, eps, horizon = 0.9, 0.999, 0.9999, 5.0, 1e-8, 6
    alpha_t = min(t * alpha / horizon, alpha)
    r = t / horizon
    b3_t = min(
        math.exp(math.log(b1) * math.log(b3) / ((1 - r) * math.log(b3) + r * math.log(b1))), b3
    )
    s["m1"] = b1 * s.get("m1", 0) + (1 - b1) * g
    s["m2"] = b3_t * s.get("m2", 0) + (1 - b3_t) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    top = s["m1"] / (1 - b1**t) + alpha_t * s["m2"]
    return p * (1 - lr * wd) - lr * top / ((s["v"] / (1 - b2**t)).sqrt() + eps)


def lion(p, g, t, s, lr, wd):
    c = 0.9 * s.get("m", torch.zeros_like(g)) + 0.1 * g
    s["m"] = 0.99 * s.get("m", 0) + 0.01 * g
    return p * (1 - lr * wd) - lr * c.sign()


def adam_ratio(g, t, s, corrected=True):
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g**2
    c1, c2 = (1 - 0.9**t, 1 - 0.999**t) if corrected else (1, 1)
    return s["m"] / c1 / ((s["v"] / c2).sqrt() + 1e-8)


def lamb(p, g, t, s, lr, wd):
    u = adam_ratio(g, t, s) + wd * p
    return p - lr * norm(p) / norm(u) * u


def lamb_uncorrected(p, g, t, s, lr, wd):
    u = adam_ratio(g, t, s, corrected=False) + wd * p
    return p - lr * norm(p) / norm(u) * u


def lamb_coupled(p, g, t, s, lr, wd):
    u = adam_ratio(g + wd * p, t, s)
    return p - lr * norm(p) / norm(u) * u


def lamb_clipped(p, g, t, s, lr, wd):
    r = adam_ratio(g, t, s)
    return p * (1 - lr * wd) - lr * min(1, 1e-3 * norm(p) / norm(r)) * r


def lars(p, g, t, s, lr, wd):
    d = 1e-3 * norm(p) / (norm(g) + wd * norm(p) + 1e-8) * (g + wd * p)
    s["m"] = 0.9 * s["m"] + d if t > 1 else d
    return p - lr * s["m"]


def lars_clipped(p, g, t, s, lr, wd):
    g = g + wd * p
    s["m"] = 0.9 * s["m"] + g if t > 1 else g
    u = g + 0.9 * s["m"]
    return p - lr * min(1, 1e-3 * norm(p) / norm(u)) * u


FORMULAS = {
    "ademamix, scheduled": ademamix,
    "lion": lion,
    "lamb": lamb,
    "lamb, uncorrected": lamb_uncorrected,
    "lamb, coupled": lamb_coupled,
    "lamb_clipped": lamb_clipped,
    "lars": lars,
    "lars_clipped": lars_clipped,
}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("rule", FORMULAS)
def test_published_rules(rule, weight_decay):
    """Those that torch does not have, against their formulas in float64; bounds as above.

    A norm of 120 squares adds 120 roundings in the worst order, halved by the root.
    """
    param = torch.nn.Parameter(drawn((40, 3), 0) * 4)
    exact = param.detach().double()
    optimizer = make(rule, [param], weight_decay=weight_decay)
    memory = {}
    for step in range(1, 9):
        param.grad = drawn((40, 3), step)
        optimizer.step()
        exact = FORMULAS[rule](exact, param.grad.double(), step, memory, 1e-2, weight_decay)
    scale = exact.abs() + 8 * 1e-2 * 30  # AdEMAMix steps furthest: lr (1 + alpha) and more
    assert ((exact - param.detach()).abs() <= 8 * (24 + 2 * 60) * U * scale).all()


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "sgd"])
def test_8bit_state_is_32bit_state_rounded(rule):
    """One step from nothing: parameters agree to the bit, states to half a step of their map.

    The step uses the new state before it is encoded, and the state that it starts from is exact in
    both codecs: zero, or one value that is a block's scale.
    """
    coded, plain = (torch.nn.Parameter(drawn((30, 20), 0)) for _ in range(2))
    coded.grad = drawn((30, 20), 1)
    plain.grad = coded.grad.clone()
    with kq.use_backend("torch"):
        optimizer = make(rule, [coded], form="{}8bit", weight_decay=0.1, min_8bit_size=0)
        reference = make(rule, [plain], form="{}32bit", weight_decay=0.1)
        optimizer.step()
        reference.step()
    assert torch.equal(coded, plain)
    state, exact = optimizer.state[coded], reference.state[plain]
    header = state["format"].tolist()
    for number, kind in enumerate(header[5:], 1):
        values = code_map(kind == 1)
        scales = state[f"absmax{number}"].repeat_interleave(256)[:600].view(30, 20)
        assert state[f"state{number}"].dtype == torch.uint8
        decoded = values[state[f"state{number}"].int()] * scales
        widest = (values[1:] - values[:-1]).max()
        error = (decoded - exact[f"state{number}"]).abs()
        assert (error <= widest / 2 * scales + 4 * U * decoded.abs()).all()


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "corrected"])
@pytest.mark.parametrize("rule", RULES)
def test_zero_gradients_and_zero_lr_move_nothing(rule, rounding):
    """How distributed checkpointing makes an optimizer create its state."""
    param = torch.nn.Parameter(drawn((300,), 0).bfloat16())
    before = param.detach().clone()
    param.grad = torch.zeros_like(param)
    options = {"lr": torch.tensor(0.0), "weight_decay": 0.1, "rounding": rounding}
    optimizer = make(rule, [param], form="{}8bit", min_8bit_size=0, **options)
    optimizer.step()
    assert torch.equal(param, before)
    assert optimizer.state[param]["step"] == 1


def test_sgd_without_momentum_keeps_no_state():
    param = torch.nn.Parameter(torch.ones(100, 100))
    param.grad = torch.ones(100, 100)
    optimizer = kq_optim.SGD8bit([param], lr=0.5)
    optimizer.step()
    assert set(optimizer.state[param]) == {"step", "format"}
    assert torch.equal(param, torch.full((100, 100), 0.5))


# Learning rates with which each rule solves the task below, and eps where it decides.
TASK = {
    "sgd": {"lr": 1.0},
    "momentum": {"lr": 0.1},
    "lion": {"lr": 0.05},
    "lars": {"lr": 30.0},
    "adagrad": {"lr": 2.0},
    "lamb_clipped": {"lr": 20.0},
    "lars_clipped": {"lr": 20.0},
    # The difference of rounded states may be 0: then eps bounds the step.
    "rmsprop_centered": {"lr": 0.05, "eps": 0.1},
    "rmsprop_centered_momentum": {"lr": 0.01, "eps": 0.1},
}


@pytest.mark.parametrize("rule", RULES)
def test_least_squares_is_learned(rule):
    """8-bit state learns what 32-bit state does; a wrong map, scale or order of states does not."""
    options = {"lr": 0.05, **TASK.get(rule.split(",")[0], {}), "weight_decay": 0.0}
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(96, 24, generator=generator)
    y = x @ torch.randn(24, 20, generator=generator)
    first = torch.randn(24, 20, generator=generator)
    start = ((x @ first - y) ** 2).mean().item()
    losses = []
    for form in ("{}32bit", "{}8bit"):
        weight = torch.nn.Parameter(first.clone())
        optimizer = make(rule, [weight], form=form, min_8bit_size=0, **options)
        for _ in range(100):
            optimizer.zero_grad()
            loss = ((x @ weight - y) ** 2).mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] < start / 4  # the task is learned at all
    assert losses[1] < losses[0] + start / 50
