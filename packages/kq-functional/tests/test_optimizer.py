"""Optimizer steps over lists: mixed, empty, strided and damaged tensors; refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import kq_functional as kq
from kq_functional.backends import _torch_optimizer

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


def step_32bit(*lists: Any, **options: Any) -> None:
    kq.optimizer_step_32bit("adam", *lists, **(DEFAULTS | options))


def step_8bit(*lists: Any, **options: Any) -> None:
    params, grads, codes, absmax, steps = lists
    options = DEFAULTS | options
    kq.optimizer_step_8bit("adam", params, grads, codes, absmax, MAPS, steps, **options)


def encode(values: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    codes, state = kq.quantize_blockwise(values, code, blocksize=256, layout="flat")
    return codes, state.absmax


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


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("grad_enabled", [True, False])  # through the dispatcher, or past it
def test_a_graph_notices_that_a_parameter_has_changed(grad_enabled: bool) -> None:
    param = torch.nn.Parameter(torch.ones(300))
    loss = (param * param).sum()
    codes = [torch.zeros(300, dtype=torch.uint8) for _ in range(2)]
    absmax = [torch.zeros(2) for _ in range(2)]
    with torch.set_grad_enabled(grad_enabled):
        step_8bit([param], [torch.ones(300)], codes, absmax, [1])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_empty_lists() -> None:
    step_8bit([], [], [], [], [])
    step_32bit([], [], [], [])


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for tile in (256, 512, 1 << 20):
        monkeypatch.setattr(_torch_optimizer, "CPU_TILE", tile)
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
