"""What a step does besides arithmetic."""

import pytest
import torch

from kq_optim import Adam, AdamW, AdamW8bit

BOTH = pytest.mark.parametrize("state", ["32bit", "8bit"])


def make(param, state, **options):
    return AdamW(param, state=state, min_8bit_size=0, **options)


def parameter(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    param = torch.nn.Parameter(torch.randn(shape, generator=generator))
    param.grad = torch.randn(shape, generator=generator)
    return param


@BOTH
def test_tensor_learning_rate_equals_a_number(state):
    a, b, c = (parameter(300) for _ in range(3))
    make([a], state, lr=torch.tensor(0.25)).step()
    make([b], state, lr=torch.tensor([0.25])).step()
    make([c], state, lr=0.25).step()
    assert torch.equal(a, c)
    assert torch.equal(b, c)


@BOTH
def test_scheduler_drives_the_learning_rate(state):
    a, b = parameter(300), parameter(300)
    scheduled = make([a], state, lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(scheduled, lambda step: 1 / (1 + step))
    by_hand = make([b], state, lr=0.5)
    for step in range(4):
        by_hand.param_groups[0]["lr"] = 0.5 * (1 / (1 + step))
        scheduled.step()
        scheduler.step()
        by_hand.step()
    assert torch.equal(a, b)


def test_one_cycle_scheduler_finds_betas():
    optimizer = AdamW8bit([parameter(8)], lr=0.1)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=10)
    assert optimizer.param_groups[0]["betas"][0] == 0.95  # OneCycleLR's max_momentum
    optimizer.step()


@BOTH
def test_closure(state):
    param = torch.nn.Parameter(torch.ones(300))
    optimizer = make([param], state)

    def closure():
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 300.0
    assert optimizer.step() is None


@BOTH
def test_parameters_without_gradient_are_skipped_and_steps_count_per_parameter(state):
    a, b = parameter(300), parameter(300)
    optimizer = make([a, b], state)
    optimizer.step()
    b.grad = None
    before = b.detach().clone()
    optimizer.step()
    assert torch.equal(b, before)
    assert (optimizer.state[a]["step"], optimizer.state[b]["step"]) == (2, 1)
    # a parameter that starts late gets the bias correction of its own first step
    c, alone = parameter(300, seed=1), parameter(300, seed=1)
    optimizer.add_param_group({"params": [c]})
    optimizer.step()
    make([alone], state).step()
    assert torch.equal(c, alone)


@BOTH
def test_a_step_that_fails_does_not_count(state):
    param = parameter(300)
    optimizer = make([param], state)
    optimizer.step()
    before = param.detach().clone()
    optimizer.param_groups[0]["betas"] = (0.9, 1.5)  # past the checks of the constructor
    with pytest.raises(ValueError, match="beta2"):
        optimizer.step()
    assert torch.equal(param, before)
    assert optimizer.state[param]["step"] == 1


@BOTH
def test_stepping_together_equals_stepping_alone(state):
    together = [parameter(n, seed=n) for n in (1, 255, 256, 257, 700)]
    alone = [parameter(n, seed=n) for n in (1, 255, 256, 257, 700)]
    optimizer = make(together, state)
    separate = [make([param], state) for param in alone]
    for _ in range(3):
        for each in (optimizer, *separate):
            each.step()
    for left, right in zip(together, alone, strict=True):
        assert torch.equal(left, right)


@BOTH
def test_non_contiguous_parameters_and_gradients(state):
    dense = parameter(20, 30)
    transposed = torch.nn.Parameter(dense.detach().t().contiguous().t())
    assert not transposed.is_contiguous()
    transposed.grad = dense.grad.t().contiguous().t()
    strided_grad = torch.nn.Parameter(dense.detach().clone())
    strided_grad.grad = dense.grad.repeat_interleave(2, dim=1)[:, ::2]
    expanded = torch.nn.Parameter(dense.detach().clone())
    expanded.grad = torch.ones(1).expand(20, 30)
    ones = torch.nn.Parameter(dense.detach().clone())
    ones.grad = torch.ones(20, 30)
    params = [dense, transposed, strided_grad, expanded, ones]
    make(params, state).step()
    assert torch.equal(transposed, dense)
    assert not transposed.is_contiguous()
    assert torch.equal(strided_grad, dense)
    assert torch.equal(expanded, ones)


@BOTH
def test_empty_and_scalar_parameters(state):
    empty, scalar = parameter(0, 5), parameter()
    optimizer = make([empty, scalar], state)
    optimizer.step()
    other = make([parameter(0, 5), parameter()], state)
    other.load_state_dict(optimizer.state_dict())
    assert other.state[other.param_groups[0]["params"][0]]["step"] == 1


@BOTH
def test_one_gradient_is_enough_for_mixed_dtypes(state):
    params = [parameter(300) for _ in range(3)]
    for param, dtype in zip(params, (torch.float32, torch.bfloat16, torch.float16), strict=True):
        grad = param.grad.to(dtype)
        param.grad = None
        param.data = param.data.to(dtype)
        param.grad = grad
    optimizer = make(params, state)
    before = [param.detach().clone() for param in params]
    optimizer.step()
    for param, old in zip(params, before, strict=True):
        assert param.dtype == old.dtype
        assert not torch.equal(param, old)


@BOTH
def test_gradients_are_not_changed(state):
    param = parameter(300)
    grad = param.grad.clone()
    make([param], state, maximize=True, weight_decay=0.5).step()
    assert torch.equal(param.grad, grad)


def test_maximize_is_descent_on_the_negated_gradient():
    up, down = parameter(5000), parameter(5000)
    down.grad = -up.grad
    AdamW8bit([up], maximize=True).step()
    AdamW8bit([down]).step()
    assert torch.equal(up, down)


def test_coupled_and_decoupled_decay_differ():
    coupled, decoupled = parameter(300), parameter(300)
    Adam([coupled], weight_decay=0.5).step()
    AdamW([decoupled], weight_decay=0.5).step()
    assert not torch.equal(coupled, decoupled)


@BOTH
def test_step_is_independent_of_the_number_of_threads(state):
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            param = parameter(70_000)
            optimizer = make([param], state)
            optimizer.step()
            optimizer.step()
            results.append(param.detach())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
