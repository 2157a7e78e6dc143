"""Steps against an independent float64 computation, and against torch's own Adam.

Bounds come from a running error analysis (Higham, "Accuracy and Stability of Numerical
Algorithms", section 3.3): beside every float64 value, `Float64Adam` carries a bound of the error
that float32 arithmetic can have made in it so far. Each float32 operation adds u = 2^-24 of its
result; a scalar rounded to float32 adds another u. The bounds are of first order; the terms of
second order are below 1e-4 of them and covered by SLACK.
"""

import contextlib

import numpy as np
import pytest
import torch

import kq_functional as kq
from kq_optim import Adam, Adam8bit, AdamW, AdamW8bit

U = 2.0**-24
ROUNDING = {torch.float32: U, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
SLACK = 1.01
LR, BETAS, EPS = 1e-2, (0.9, 0.99), 1e-6


@pytest.fixture(autouse=True, params=["selected", "torch"])
def backend(request):
    """The backend that users get, and the one that every device has."""
    with contextlib.nullcontext() if request.param == "selected" else kq.use_backend("torch"):
        yield


class Float64Adam:
    """p, m, v in float64 with error bounds ep, em, ev."""

    def __init__(self, p, *, weight_decay, decoupled, maximize=False, dtype=torch.float32):
        self.p = p.detach().double().numpy().copy()
        self.m = np.zeros_like(self.p)
        self.v = np.zeros_like(self.p)
        self.ep, self.em, self.ev = (np.zeros_like(self.p) for _ in range(3))
        self.weight_decay, self.decoupled, self.maximize = weight_decay, decoupled, maximize
        self.u_param = ROUNDING[dtype]

    def step(self, grad, t, lr=LR):
        beta1, beta2 = BETAS
        g = grad.detach().double().numpy() * (-1 if self.maximize else 1)
        eg = np.zeros_like(g)
        if self.weight_decay and self.decoupled:
            # the factor 1 - lr*wd is rounded, then the product
            self.ep = self.ep + 2 * U * np.abs(self.p)
            self.p = self.p * (1 - lr * self.weight_decay)
        elif self.weight_decay:
            # wd is rounded, the product, the sum
            decay = self.weight_decay * self.p
            eg = self.weight_decay * self.ep + 2 * U * np.abs(decay) + U * np.abs(g + decay)
            g = g + decay
        # Two terms with a rounded factor, a product and the sum: 3u of each. torch writes
        # m + (1-b1)(g - m) instead: one operation more, on |g| + |m|.
        terms = beta1 * np.abs(self.m) + (1 - beta1) * (np.abs(g) + np.abs(self.m))
        self.em = beta1 * self.em + (1 - beta1) * eg + 4 * U * terms
        self.m = beta1 * self.m + (1 - beta1) * g
        # the same with g*g: one product more
        self.ev = beta2 * self.ev + (1 - beta2) * 2 * np.abs(g) * eg
        self.ev = self.ev + 4 * U * (beta2 * self.v + (1 - beta2) * g * g)
        self.v = beta2 * self.v + (1 - beta2) * g * g
        c1, c2 = 1 - beta1**t, np.sqrt(1 - beta2**t)
        root = np.sqrt(self.v)
        denominator = root + EPS * c2
        # root, eps*c2 (two factors), sum; torch divides the root by c2 and does not scale eps
        e_den = self.ev / np.maximum(2 * root, 1e-300) + 4 * U * denominator
        factor = lr * c2 / c1
        update = factor * self.m / denominator
        # error of m, of the denominator; factor, product, quotient, and torch's other scaling
        e_update = factor * self.em / denominator + np.abs(update) * (e_den / denominator + 4 * U)
        self.p = self.p - update
        self.ep = self.ep + e_update + self.u_param * np.abs(self.p) + U * np.abs(self.p)

    def assert_bounds(self, param, state=None):
        got = param.detach().double().numpy()
        # u_param of the computed value, which may exceed the exact one by its error
        assert np.all(np.abs(got - self.p) <= SLACK * self.ep + self.u_param * self.ep)
        if state is not None:
            for name, value, error in (("state1", self.m, self.em), ("state2", self.v, self.ev)):
                assert np.all(np.abs(state[name].double().numpy() - value) <= SLACK * error)


def tensors(seed, shape, steps, dtype=torch.float32):
    """A parameter and gradients whose sizes span six decades."""
    generator = torch.Generator().manual_seed(seed)
    param = torch.randn(shape, generator=generator).to(dtype)
    scale = 10.0 ** (torch.rand(shape, generator=generator) * 6 - 4)
    grads = [(torch.randn(shape, generator=generator) * scale).to(dtype) for _ in range(steps)]
    return torch.nn.Parameter(param), grads


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("ours", "theirs"), [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)])
def test_32bit_trajectory_agrees_with_float64_and_torch(ours, theirs, weight_decay, maximize):
    options = {"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": weight_decay}
    param, grads = tensors(0, (7, 43), 25)
    other = torch.nn.Parameter(param.detach().clone())
    exact = Float64Adam(
        param, weight_decay=weight_decay, decoupled=ours is AdamW, maximize=maximize
    )
    optimizer = ours([param], **options, maximize=maximize)
    reference = theirs([other], **options, maximize=maximize, foreach=False)
    for t, grad in enumerate(grads, 1):
        param.grad, other.grad = grad, grad.clone()
        optimizer.step()
        reference.step()
        exact.step(grad, t)
        exact.assert_bounds(param, optimizer.state[param])
        exact.assert_bounds(other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_32bit_state_of_half_precision_parameters(dtype):
    param, grads = tensors(1, (300,), 10, dtype)
    exact = Float64Adam(param, weight_decay=0.1, decoupled=True, dtype=dtype)
    optimizer = AdamW([param], lr=LR, betas=BETAS, eps=EPS, weight_decay=0.1)
    for t, grad in enumerate(grads, 1):
        param.grad = grad
        optimizer.step()
        exact.step(grad, t)
        exact.assert_bounds(param, optimizer.state[param])
    assert optimizer.state[param]["state1"].dtype == torch.float32


def blocks(values):
    """float64 [blocks, 256], padded with zeros."""
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    return np.pad(flat, (0, -flat.size % 256)).reshape(-1, 256)


def decode(state, number, code_map):
    codes = state[f"state{number}"].numpy().reshape(-1)
    scales = np.repeat(state[f"absmax{number}"].double().numpy(), 256)[: codes.size]
    return (code_map[codes] * scales).reshape(state[f"state{number}"].shape)


def assert_nearest_codes(state, number, code_map, value, error):
    """Scales within the error of the largest value, codes nearest up to the error of the ratio."""
    value, error = blocks(value), blocks(error)
    absmax = np.abs(value).max(axis=1)
    got = state[f"absmax{number}"].double().numpy()
    e_absmax = SLACK * error.max(axis=1)
    assert np.all(np.abs(got - absmax) <= e_absmax)
    ratio = value / got[:, None]
    tolerance = SLACK * error / got[:, None]
    codes = state[f"state{number}"].numpy().reshape(-1)
    midpoints = (code_map[1:] + code_map[:-1]) / 2
    low = np.concatenate([[-np.inf], midpoints])[codes]
    high = np.concatenate([midpoints, [np.inf]])[codes]
    ratio, tolerance = ratio.reshape(-1)[: codes.size], tolerance.reshape(-1)[: codes.size]
    assert np.all(ratio >= low - tolerance)
    assert np.all(ratio <= high + tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("numel", [5, 256, 1000])
@pytest.mark.parametrize("cls", [Adam8bit, AdamW8bit])
def test_8bit_step_agrees_with_float64(cls, numel, dtype):
    """Every step starts from the optimizer's own state, decoded; bounds are of one step."""
    param, grads = tensors(2, (numel,), 12, dtype)
    optimizer = cls([param], lr=LR, betas=BETAS, eps=EPS, weight_decay=0.1, min_8bit_size=0)
    signed = kq.create_dynamic_map(signed=True).double().numpy()
    unsigned = kq.create_dynamic_map(signed=False).double().numpy()
    for t, grad in enumerate(grads, 1):
        exact = Float64Adam(param, weight_decay=0.1, decoupled=cls is AdamW8bit, dtype=dtype)
        if t > 1:
            exact.m = decode(optimizer.state[param], 1, signed)
            exact.v = decode(optimizer.state[param], 2, unsigned)
            # decoding rounds code * absmax once
            exact.em, exact.ev = U * np.abs(exact.m), U * exact.v
        param.grad = grad
        optimizer.step()
        exact.step(grad, t)
        exact.assert_bounds(param)
        state = optimizer.state[param]
        assert_nearest_codes(state, 1, signed, exact.m, exact.em)
        assert_nearest_codes(state, 2, unsigned, exact.v, exact.ev)


@pytest.mark.parametrize("cls", [Adam, Adam8bit])
def test_zero_gradients_leave_parameters_alone(cls):
    """A moment of exactly zero is stored as zero (defect D1 of bitsandbytes: weights drift)."""
    options = {"min_8bit_size": 0} if cls is Adam8bit else {}
    param = torch.nn.Parameter(torch.randn(512))
    before = param.detach().clone()
    mask = (torch.arange(512) % 3 == 0).float()  # zeros inside blocks that are not zero
    optimizer = cls([param], **options)
    for _ in range(20):
        param.grad = torch.randn(512) * mask
        optimizer.step()
    assert torch.equal(param[mask == 0], before[mask == 0])
    assert not torch.equal(param[mask == 1], before[mask == 1])


def test_8bit_training_follows_32bit_training():
    """Least squares: both reach the same loss; a wrong rule or scale does not."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(256, 64, generator=generator)
    y = x @ torch.randn(64, 80, generator=generator)
    losses = []
    for cls in (AdamW, AdamW8bit):
        weight = torch.nn.Parameter(torch.zeros(64, 80))
        optimizer = cls([weight], lr=3e-2, weight_decay=0.0)
        for _ in range(150):
            optimizer.zero_grad()
            loss = ((x @ weight - y) ** 2).mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] < 1.0 < (y**2).mean()  # the task is learned at all
    assert losses[1] < 2 * losses[0]
