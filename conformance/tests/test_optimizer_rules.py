"""The update rules: against torch in float64, by hand, and in float32 within their enclosures."""

import numpy as np
import pytest
import torch

from kq_conformance.bounds import Enclosure, enclose_step
from kq_conformance.floats import FLOAT32
from kq_conformance.reference import RULES, Hyper, ademamix_factors, optimizer_step
from kq_conformance.reference.optimizer import adaptive, momentum, squares, states

momentum_shortened = momentum.shortened
STEPS = 4
SIZE = 50


def fresh(rule, size=SIZE):
    return tuple(np.zeros(size) for _ in RULES[rule].signed)


def stepped(rule, p, g, state=None, step=1, **changes):
    """One step from values given as lists."""
    p, g = (np.array(each, dtype=np.float64) for each in (p, g))
    state = fresh(rule, p.size) if state is None else tuple(np.array(s, float) for s in state)
    return optimizer_step(rule, p, g, state, step, RULES[rule].hyper(**changes))


@pytest.mark.parametrize(
    ("rule", "changes", "optimizer", "options"),
    [
        ("sgd", {}, torch.optim.SGD, {}),
        ("momentum", {}, torch.optim.SGD, {"momentum": 0.9}),
        (
            "momentum",
            {"dampening": 0.25},
            torch.optim.SGD,
            {"momentum": 0.9, "dampening": 0.25},
        ),
        ("momentum", {"nesterov": 1}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("adam", {}, torch.optim.Adam, {}),
        ("adam", {"decoupled": True}, torch.optim.AdamW, {}),
        ("amsgrad", {}, torch.optim.Adam, {"amsgrad": True}),
        ("amsgrad", {"decoupled": True}, torch.optim.AdamW, {"amsgrad": True}),
        ("rmsprop", {}, torch.optim.RMSprop, {}),
        ("rmsprop_momentum", {}, torch.optim.RMSprop, {"momentum": 0.9}),
        ("rmsprop_centered", {}, torch.optim.RMSprop, {"centered": True}),
        (
            "rmsprop_centered_momentum",
            {},
            torch.optim.RMSprop,
            {"momentum": 0.9, "centered": True},
        ),
        ("adagrad", {"lr_decay": 0.125}, torch.optim.Adagrad, {"lr_decay": 0.125}),
    ],
)
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
def test_torch_walks_the_same_way(rule, changes, optimizer, options, decay, maximize):
    rng = np.random.default_rng(1)
    p, state = rng.normal(size=SIZE), fresh(rule)
    common = {"lr": 1e-2, "weight_decay": decay, "maximize": maximize}
    hyper = RULES[rule].hyper(**common, grad_scale=8.0, **changes)
    param = torch.nn.Parameter(torch.from_numpy(p.copy()))
    theirs = optimizer([param], **common, **options, foreach=False)
    for step in range(1, STEPS + 1):
        g = rng.normal(size=SIZE)
        p, state = optimizer_step(rule, p, 8 * g, state, step, hyper)
        param.grad = torch.from_numpy(g)
        theirs.step()
    # About twenty float64 operations a step; a root of a difference may lose half of the digits.
    accuracy = 1e-7 if "centered" in rule else 1e-13
    np.testing.assert_allclose(param.detach().numpy(), p, rtol=accuracy, atol=accuracy)


class TestByHand:
    def test_lion_moves_by_a_sign(self):
        # 0.9 m + 0.1 g: 0.9 − 0.5 > 0, −0.9 + 0.5 < 0, 0.9 − 1 < 0, 0.
        p, (m,) = stepped(
            "lion", [2, 2, 2, 2], [-5, 5, -10, 0], [[1, -1, 1, 0]], lr=0.5, decoupled=True
        )
        assert p.tolist() == [1.5, 2.5, 2.5, 2.0]
        assert m == pytest.approx([0.99 - 0.05, -0.99 + 0.05, 0.99 - 0.1, 0])

    def test_lion_decays_beside_its_step(self):
        p, _ = stepped("lion", [2.0], [1.0], lr=0.5, weight_decay=0.1, decoupled=True)
        assert p == pytest.approx([2 * 0.95 - 0.5])

    def test_lion_does_not_hide_nan(self):
        p, (m,) = stepped("lion", [2.0], [np.nan])
        assert np.isnan([p, m]).all()

    def test_the_slow_moment_of_ademamix_is_not_corrected(self):
        p, (fast, slow, v) = stepped("ademamix", [1.0], [2.0], lr=0.5, eps=0.0)
        assert (fast, slow, v) == (pytest.approx(0.2), pytest.approx(2e-4), pytest.approx(4e-3))
        # (m₁/c₁ + α m₂) / √v̂ = (2 + 5 · 0.0002) / 2
        assert p == pytest.approx([1 - 0.5 * (2 + 1e-3) / 2])

    def test_ademamix_warms_up(self):
        own = dict(RULES["ademamix"].usual) | {"t_alpha": 100.0, "t_beta3": 100.0}
        assert ademamix_factors(50, own)[0] == pytest.approx(2.5)
        assert ademamix_factors(100, own) == (5.0, pytest.approx(0.9999))
        assert ademamix_factors(1000, own) == (5.0, 0.9999)
        # β₃ begins at β₁, and its half-life grows evenly: ½ (ln ½/ln β₁ + ln ½/ln β₃).
        halves = 0.5 * (1 / np.log(0.9) + 1 / np.log(0.9999))
        assert ademamix_factors(50, own)[1] == pytest.approx(np.exp(1 / halves))
        assert ademamix_factors(5, dict(RULES["ademamix"].usual)) == (5.0, 0.9999)

    def test_lamb_steps_as_far_as_the_parameter_is_long(self):
        # u = (1, −1) at the first step; ‖p‖/‖u‖ = 5/√2.
        p, _ = stepped("lamb", [3.0, 4.0], [1.0, -7.0], lr=0.1, eps=0.0)
        assert p == pytest.approx([3 - 0.5 / np.sqrt(2), 4 + 0.5 / np.sqrt(2)])
        # u = (1 + 0.5 · 3, −1 + 0.5 · 4)
        p, _ = stepped(
            "lamb", [3.0, 4.0], [1.0, -7.0], lr=0.1, eps=0.0, weight_decay=0.5, decoupled=True
        )
        u = np.array([2.5, 1.0])
        assert p == pytest.approx(np.array([3.0, 4.0]) - 0.1 * 5 / np.sqrt(7.25) * u)

    def test_lamb_without_correction(self):
        p, _ = stepped("lamb", [3.0, 4.0], [1.0, -7.0], lr=0.1, eps=0.0, bias_correction=0)
        # m/√v is 0.1/√0.001 times as long, which the trust ratio takes back.
        assert p == pytest.approx([3 - 0.5 / np.sqrt(2), 4 + 0.5 / np.sqrt(2)])

    @pytest.mark.parametrize("rule", ["lamb", "lars"])
    def test_no_trust_ratio_without_a_parameter(self, rule):
        p, _ = stepped(rule, [0.0, 0.0], [2.0, 2.0], lr=0.1)
        assert p == pytest.approx([-0.1, -0.1] if rule == "lamb" else [-0.2, -0.2])

    def test_lars_scales_the_gradient(self):
        # τ = 5 / (13 + 0.5 · 5) for ‖g‖ = 13
        g, p = np.array([5.0, 12.0]), np.array([3.0, 4.0])
        got, (buf,) = stepped(
            "lars", p, g, lr=0.1, weight_decay=0.5, trust_coefficient=0.02, eps=0.0
        )
        d = 0.02 * 5 / 15.5 * (g + 0.5 * p)
        assert buf == pytest.approx(d)
        assert got == pytest.approx(p - 0.1 * d)

    @pytest.mark.parametrize("rule", ["lamb_clipped", "lars_clipped"])
    def test_clipped_steps_are_no_longer_than_allowed(self, rule):
        p, g = np.array([3.0, 4.0]), np.array([30.0, -40.0])
        short, _ = stepped(rule, p, g, lr=1.0, max_unorm=0.01)
        assert np.linalg.norm(short - p) == pytest.approx(0.05)
        long, _ = stepped(rule, p, g, lr=1.0, max_unorm=1e9)
        bare, _ = stepped("adam" if rule == "lamb_clipped" else "sgd", p, g, lr=1.0)
        assert long == pytest.approx(bare)

    def test_states_beyond_float32_are_infinite(self):
        for rule in ("rmsprop", "adagrad"):
            p, (v,) = stepped(rule, [1.0], [2.0**100])
            assert np.isinf(v).all()
            assert p == 1.0


def test_hyperparameters_are_known_by_name():
    hyper = RULES["lion"].hyper(lr=0.5, beta2=0.5)
    assert hyper == Hyper(lr=0.5, own={"beta1": 0.9, "beta2": 0.5})
    with pytest.raises(TypeError, match="eps"):
        RULES["lion"].hyper(eps=0.5)


VARIED = [
    {},
    {"lr": 1e-2, "weight_decay": 0.1},
    {"lr": 1e-2, "weight_decay": 0.1, "decoupled": True, "maximize": True},
    {"grad_scale": 3.0},
]


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("changes", VARIED)
@pytest.mark.parametrize("step", [1, 7])
class TestEnclosures:
    def problem(self, rule, changes, step):
        changes = dict(changes)
        if not RULES[rule].decouples:
            changes.pop("decoupled", None)
        rng = np.random.default_rng(step)
        p, g = (FLOAT32.round(rng.normal(size=2000)) for _ in range(2))
        m = FLOAT32.round(rng.normal(size=2000))
        state = tuple(m if signed else FLOAT32.round(m**2 + 0.1) for signed in RULES[rule].signed)
        hyper = RULES[rule].hyper(**changes)
        bound = enclose_step(rule, p, g, tuple(map(Enclosure.of, state)), step, hyper)
        return (rule, p, g, state, step, hyper), (bound.p, *bound.states)

    def test_the_exact_step_lies_inside(self, rule, changes, step):
        arguments, bounds = self.problem(rule, changes, step)
        p, state = optimizer_step(*arguments)
        for got, bound in zip((p, *state), bounds, strict=True):
            assert np.all((bound.low <= got) & (got <= bound.high))

    def test_float32_lies_inside(self, monkeypatch, rule, changes, step):
        """NumPy keeps float32 where the other factor is a number of Python."""
        arguments, bounds = self.problem(rule, changes, step)
        _, p, g, state, *rest = arguments
        for module in (states, momentum, squares):
            monkeypatch.setattr(module, "stored", lambda x: x, raising=False)
        for module in (momentum, adaptive):
            monkeypatch.setattr(module, "norm", self.norm)
            monkeypatch.setattr(module, "shortened", self.shortened)
        narrow = [each.astype(np.float32) for each in (p, g, *state)]
        p, state = optimizer_step(rule, narrow[0], narrow[1], tuple(narrow[2:]), *rest)
        for got, bound in zip((p, *state), bounds, strict=True):
            assert got.dtype == np.float32
            assert np.all((bound.low <= got) & (got <= bound.high))

    @staticmethod
    def shortened(*arguments):
        return np.float32(momentum_shortened(*arguments))

    @staticmethod
    def norm(x):
        return np.float32(np.sqrt(np.sum(x.astype(np.float64) ** 2)))


def test_enclosures_are_a_few_roundings_wide():
    u = FLOAT32.unit_roundoff
    for rule, known in RULES.items():
        p, g = np.full(100, 1.0), np.full(100, 0.5)
        state = tuple(np.full(100, 0.25) for _ in known.signed)
        hyper = known.hyper(lr=1e-3)
        bound = enclose_step(rule, p, g, tuple(map(Enclosure.of, state)), 10, hyper).p
        moved = np.abs(optimizer_step(rule, p, g, state, 10, hyper)[0] - p)
        # One rounding of p on either side, and at most forty of what it moves by.
        assert np.all(bound.high - bound.low <= 2 * u * (1 + 40 * moved)), rule


def test_lion_is_certain_of_its_sign_away_from_zero():
    m = np.array([1.0, 1.0])
    g = np.array([-9.0 + 1e-5, -9.0])  # 0.9 m + 0.1 g is 1e-6, and 0 but for rounding
    hyper = RULES["lion"].hyper(lr=1.0)
    bound = enclose_step("lion", np.zeros(2), g, (Enclosure.of(m),), 5, hyper).p
    assert bound.high[0] < 0
    assert bound.low[1] == pytest.approx(-1)
    assert bound.high[1] == pytest.approx(1)
