"""One optimizer step against float64, with bounds from running error analysis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import kq_functional as kq
from kq_functional.backends import _torch_optimizer

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
# Half the spacing of subnormal numbers: the absolute error of rounding to the dtype.
TINY = {torch.float32: 2.0**-150, torch.bfloat16: 2.0**-134, torch.float16: 2.0**-25}
MAPS = [kq.create_dynamic_map(), kq.create_dynamic_map(signed=False)]
DEFAULTS: dict[str, Any] = {
    "lr": 1e-2,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "decoupled": False,
    "maximize": False,
}
OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled": True},
    {"weight_decay": 0.1, "maximize": True},
    {"beta1": 0.5, "beta2": 0.7, "eps": 1e-3},
]


@dataclass
class Approx:
    """A float64 value and a bound on how far a float32 computation of it may be off.

    Every operation passes the errors of its operands on and adds one rounding, which also holds
    for a computation that fuses two operations, or that takes a factor from double.
    """

    value: Tensor
    error: Tensor

    def rounded(self, dtype: torch.dtype = torch.float32) -> Approx:
        largest = self.value.abs() + self.error
        return Approx(self.value, self.error + UNIT[dtype] * largest + TINY[dtype])

    def __add__(self, other: Approx) -> Approx:
        return Approx(self.value + other.value, self.error + other.error).rounded()

    def __mul__(self, other: Approx) -> Approx:
        error = self.value.abs() * other.error + other.value.abs() * self.error
        return Approx(self.value * other.value, error + self.error * other.error).rounded()

    def __truediv__(self, other: Approx) -> Approx:
        least = other.value.abs() - other.error
        error = (self.error + (self.value / other.value).abs() * other.error) / least
        return Approx(self.value / other.value, error).rounded()

    def sqrt(self) -> Approx:
        low = (self.value - self.error).clamp(min=0).sqrt()
        high = (self.value + self.error).sqrt()
        root = self.value.sqrt()
        return Approx(root, torch.maximum(root - low, high - root)).rounded()


def exact(value: Tensor) -> Approx:
    return Approx(value.double(), torch.zeros(value.shape, dtype=torch.float64))


def factor(value: float, like: Tensor) -> Approx:
    """A scalar computed in double and rounded to float32."""
    full = torch.full(like.shape, value, dtype=torch.float64)
    return Approx(full, torch.zeros_like(full)).rounded()


def adam(p: Tensor, g: Tensor, m: Tensor, v: Tensor, step: int, options: dict[str, Any]) -> Any:
    """The textbook form: bias-corrected moments, then the step."""
    o = options
    param, grad = exact(p), exact(-g if o["maximize"] else g)

    def scalar(value: float) -> Approx:
        return factor(value, p)

    if o["decoupled"]:
        param = param * scalar(1 - o["lr"] * o["weight_decay"])
    else:
        grad = grad + param * scalar(o["weight_decay"])
    first = exact(m) * scalar(o["beta1"]) + grad * scalar(1 - o["beta1"])
    second = exact(v) * scalar(o["beta2"]) + grad * grad * scalar(1 - o["beta2"])
    corrected = first * scalar(1 / (1 - o["beta1"] ** step))
    root = (second * scalar(1 / (1 - o["beta2"] ** step))).sqrt()
    update = corrected * scalar(o["lr"]) / (root + scalar(o["eps"]))
    return param + Approx(-update.value, update.error), first, second


def tensors(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(shape, generator=generator).to(dtype),
        torch.randn(shape, generator=generator).to(dtype),
    )


def moments(shape: tuple[int, ...], seed: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(shape, generator=generator) / 10,
        torch.rand(shape, generator=generator) / 100,
    )


def within(found: Tensor, bound: Approx) -> bool:
    return bool(((found.double() - bound.value).abs() <= bound.error).all())


def step_32bit(*lists: Any, **options: Any) -> None:
    kq.optimizer_step_32bit("adam", *lists, **(DEFAULTS | options))


def step_8bit(*lists: Any, **options: Any) -> None:
    params, grads, codes, absmax, steps = lists
    options = DEFAULTS | options
    kq.optimizer_step_8bit("adam", params, grads, codes, absmax, MAPS, steps, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("step", [1, 2, 1000])
def test_32bit_step(dtype: torch.dtype, options: dict[str, Any], step: int) -> None:
    param, grad = tensors((7, 40), dtype)
    m, v = moments((7, 40))
    expected = adam(param, grad, m, v, step, DEFAULTS | options)
    step_32bit([param], [grad], [m, v], [step], **options)
    found = expected[0] if dtype == torch.float32 else expected[0].rounded(dtype)
    assert within(param, found)
    assert within(m, expected[1])
    assert within(v, expected[2])


def encode(values: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    codes, state = kq.quantize_blockwise(values, code, blocksize=256, layout="flat")
    return codes, state.absmax


def decode(codes: Tensor, absmax: Tensor, code: Tensor) -> Tensor:
    scale = absmax.repeat_interleave(256)[: codes.numel()].view(codes.shape)
    return code[codes.int()] * scale


def nearest_code_of(moment: Approx, codes: Tensor, absmax: Tensor, code: Tensor) -> bool:
    """Whether every code is nearest to some value within the error of its moment."""
    scale = absmax.repeat_interleave(256)[: codes.numel()].view(codes.shape).double()
    wide = code.double()
    middle = (wide[1:] + wide[:-1]) / 2
    infinity = torch.tensor([math.inf], dtype=torch.float64)
    upper = torch.cat((middle, infinity))[codes.int()] * scale
    lower = torch.cat((-infinity, middle))[codes.int()] * scale
    below = moment.value - moment.error <= upper
    above = moment.value + moment.error >= lower
    return bool((below & above).all())


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("shape", "step"), [((3, 300), 1), ((3, 300), 50), ((256,), 2), ((5,), 9)])
def test_8bit_step(
    dtype: torch.dtype, options: dict[str, Any], shape: tuple[int, ...], step: int
) -> None:
    param, grad = tensors(shape, dtype)
    states = [encode(s, code) for s, code in zip(moments(shape), MAPS, strict=True)]
    codes, absmax = [s[0] for s in states], [s[1] for s in states]
    # Decoding is exactly one float32 product, so both sides start from identical moments.
    m, v = (decode(*state, code) for state, code in zip(states, MAPS, strict=True))
    expected = adam(param, grad, m, v, step, DEFAULTS | options)
    step_8bit([param], [grad], codes, absmax, [step], **options)
    found = expected[0] if dtype == torch.float32 else expected[0].rounded(dtype)
    assert within(param, found)
    for k in range(2):
        moment = expected[1 + k]
        blocks = moment.value.flatten().split(256)
        errors = moment.error.flatten().split(256)
        for block, error, scale in zip(blocks, errors, absmax[k], strict=True):
            assert abs(block.abs().max() - scale) <= error.max()
        assert nearest_code_of(moment, codes[k], absmax[k], MAPS[k])


STEPS = [1, 2, 3, 4, 5]


def mixed_list() -> Any:
    """Mixed dtypes and shapes, an empty tensor and strided ones; state in 8 bits."""
    shapes = [(300,), (0,), (4, 70), (17, 31), (1,)]
    dtypes = [torch.float32, torch.float32, torch.bfloat16, torch.float32, torch.float16]
    pairs = [tensors(s, d, seed=i) for i, (s, d) in enumerate(zip(shapes, dtypes, strict=True))]
    params, grads = [p for p, _ in pairs], [g for _, g in pairs]
    grads[2] = grads[2].t().contiguous().t()
    params[3], grads[3] = params[3].t(), grads[3].t()
    codes = [
        torch.full(p.shape, 127 * (1 - k), dtype=torch.uint8) for k in range(2) for p in params
    ]
    absmax = [torch.zeros(math.ceil(p.numel() / 256)) for _ in range(2) for p in params]
    return params, grads, codes, absmax


@pytest.mark.usefixtures("backend")
def test_8bit_list_equals_one_at_a_time() -> None:
    params, grads, codes, absmax = mixed_list()
    step_8bit(params, grads, codes, absmax, STEPS, weight_decay=0.1)
    single = mixed_list()
    for i in range(5):
        of_one = [[single[k][i], single[k][5 + i]] for k in (2, 3)]
        step_8bit([single[0][i]], [single[1][i]], *of_one, [STEPS[i]], weight_decay=0.1)
    for found, expected in zip((params, codes, absmax), single[:1] + single[2:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_32bit_list_equals_one_at_a_time() -> None:
    params, grads, *_ = mixed_list()
    states = [torch.zeros(p.shape) for _ in range(2) for p in params]
    step_32bit(params, grads, states, STEPS)
    single = mixed_list()
    for i in range(5):
        of_one = [torch.zeros(single[0][i].shape) for _ in range(2)]
        step_32bit([single[0][i]], [single[1][i]], of_one, [STEPS[i]])
        assert torch.equal(single[0][i], params[i])
        assert torch.equal(of_one[0], states[i])
        assert torch.equal(of_one[1], states[5 + i])


@pytest.mark.usefixtures("backend")
def test_untouched_weights_stay_untouched() -> None:
    """Zero gradients from zero state: both moments keep their exact zeros."""
    param, _ = tensors((600,), torch.float32)
    before = param.clone()
    codes = [torch.full((600,), 127, dtype=torch.uint8), torch.zeros(600, dtype=torch.uint8)]
    absmax = [torch.zeros(3), torch.zeros(3)]
    for step in (1, 2, 3):
        step_8bit([param], [torch.zeros(600)], codes, absmax, [step])
    assert torch.equal(param, before)
    assert (codes[0] == 127).all()
    assert (codes[1] == 0).all()


@pytest.mark.usefixtures("backend")
def test_a_damaged_gradient_shows_in_its_block_only() -> None:
    param, grad = tensors((600,), torch.float32)
    grad[300] = math.nan
    codes = [torch.full((600,), 127, dtype=torch.uint8), torch.zeros(600, dtype=torch.uint8)]
    absmax = [torch.zeros(3), torch.zeros(3)]
    step_8bit([param], [grad], codes, absmax, [1])
    for k in range(2):
        assert absmax[k].isnan().tolist() == [False, True, False]
    assert param.isnan().nonzero().tolist() == [[300]]


def test_empty_lists() -> None:
    step_8bit([], [], [], [], [])
    step_32bit([], [], [], [])


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for tile in (256, 512, 1 << 20):
        monkeypatch.setattr(_torch_optimizer, "TILE", tile)
        param, grad = tensors((1000,), torch.bfloat16)
        states = [encode(s, code) for s, code in zip(moments((1000,)), MAPS, strict=True)]
        codes, absmax = [s[0] for s in states], [s[1] for s in states]
        with kq.use_backend("torch"):
            step_8bit([param], [grad], codes, absmax, [5])
        results.append([param, *codes, *absmax])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


P, G = torch.ones(300), torch.ones(300)


def codes_of(count: int) -> list[Tensor]:
    return [torch.zeros(count, dtype=torch.uint8) for _ in range(2)]


def scales(count: int = 2) -> list[Tensor]:
    return [torch.zeros(count) for _ in range(2)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: kq.optimizer_step_32bit("nadam", [P], [G], [P, P], [1], **DEFAULTS),
            ValueError,
            "rule must be one of sgd, .*, got 'nadam'",
        ),
        (
            lambda: step_32bit([P], [], [P, P], [1]),
            ValueError,
            "grads must have one entry for each of the 1 params, got 0",
        ),
        (
            lambda: step_32bit([P], [G], [P, P], [1, 2]),
            ValueError,
            "steps must have one entry for each of the 1 params, got 2",
        ),
        (
            lambda: step_32bit([P], [G], [P, P], [0]),
            ValueError,
            r"steps\[0\] must be at least 1, got 0",
        ),
        (
            lambda: step_32bit([P], [G[:5]], [P, P], [1]),
            ValueError,
            r"grads\[0\] must match params\[0\] in shape, dtype and device",
        ),
        (
            lambda: step_32bit([P], [G.half()], [P, P], [1]),
            ValueError,
            r"grads\[0\] must match params\[0\]",
        ),
        (
            lambda: step_32bit([P.double()], [G.double()], [P, P], [1]),
            TypeError,
            "params must be one of float32, bfloat16, float16, got float64",
        ),
        (
            lambda: step_32bit([P], [G], [P], [1]),
            ValueError,
            "states must have 2 entries for each of the 1 params .*, got 1",
        ),
        (
            lambda: step_32bit([P], [G], [P, P.half()], [1]),
            TypeError,
            r"states\[1\] must be float32, got float16",
        ),
        (
            lambda: step_32bit([P], [G], [P, P[1:]], [1]),
            ValueError,
            r"states\[1\] must have 300 elements, got 299",
        ),
        (
            lambda: step_32bit([P], [G], [P, torch.ones(600)[::2]], [1]),
            ValueError,
            r"states\[1\] must be contiguous",
        ),
        (
            lambda: step_8bit([P], [G], codes_of(299), scales(), [1]),
            ValueError,
            r"codes\[0\] must have 300 elements, got 299",
        ),
        (
            lambda: step_8bit([P], [G], [P, P], scales(), [1]),
            TypeError,
            r"codes\[0\] must be uint8, got float32",
        ),
        (
            lambda: step_8bit([P], [G], codes_of(300), scales(1), [1]),
            ValueError,
            r"absmax\[0\] must have 2 elements, got 1",
        ),
        (
            lambda: kq.optimizer_step_8bit(
                "adam", [P], [G], codes_of(300), scales(), MAPS[:1], [1], **DEFAULTS
            ),
            ValueError,
            "code_maps must have 2 entries, got 1",
        ),
        (
            lambda: kq.optimizer_step_8bit(
                "adam", [P], [G], codes_of(300), scales(), [MAPS[0], P], [1], **DEFAULTS
            ),
            ValueError,
            r"code_maps\[1\] must have 256 elements, got 300",
        ),
        *(
            (
                lambda name=name, value=value: kq.optimizer_step_8bit(
                    "adam", [P], [G], codes_of(300), scales(), MAPS, [1], **DEFAULTS | {name: value}
                ),
                ValueError,
                f"{name} must",
            )
            for name, value in [("beta1", 1.0), ("beta2", -0.1), ("eps", -1.0), ("lr", math.nan)]
        ),
    ],
)
def test_bad_arguments(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
    assert torch.equal(P, torch.ones(300))
