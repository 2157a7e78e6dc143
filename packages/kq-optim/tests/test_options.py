"""Constructor arguments, groups and overrides: implemented or refused, never ignored."""

import pytest
import torch

from kq_optim import Adam, Adam8bit, Adam32bit, AdamW, AdamW8bit, AdamW32bit

CLASSES = [Adam, AdamW, Adam8bit, AdamW8bit, Adam32bit, AdamW32bit]


def parameter(*shape, dtype=torch.float32):
    param = torch.nn.Parameter(torch.ones(shape, dtype=dtype))
    param.grad = torch.ones_like(param)
    return param


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("lr", -1.0, ValueError),
        ("lr", float("nan"), ValueError),
        ("lr", float("inf"), ValueError),
        ("lr", "1e-3", TypeError),
        ("lr", True, TypeError),
        ("lr", torch.ones(2), ValueError),
        ("lr", torch.tensor(1), ValueError),
        ("lr", torch.tensor(-1.0), ValueError),
        ("betas", (0.9,), TypeError),
        ("betas", 0.9, TypeError),
        ("betas", (0.9, 1.0), ValueError),
        ("betas", (-0.1, 0.9), ValueError),
        ("betas", (0.9, None), TypeError),
        ("eps", -1e-8, ValueError),
        ("weight_decay", -0.1, ValueError),
        ("maximize", 1, TypeError),
        ("amsgrad", 1, TypeError),
    ],
)
def test_bad_arguments_are_refused_by_name(cls, argument, value, error):
    with pytest.raises(error, match=argument):
        cls([parameter(3)], **{argument: value})


@pytest.mark.parametrize("cls", [Adam, AdamW])
def test_state_is_32bit_or_8bit(cls):
    with pytest.raises(ValueError, match=r"state must be one of .*got '4bit'"):
        cls([parameter(3)], state="4bit")


@pytest.mark.parametrize("cls", [Adam8bit, AdamW8bit, Adam32bit, AdamW32bit])
def test_names_that_fix_the_state_do_not_take_it(cls):
    with pytest.raises(TypeError, match="state"):
        cls([parameter(3)], state="8bit")


@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_bad_min_8bit_size(value):
    with pytest.raises((ValueError, TypeError), match="min_8bit_size"):
        AdamW8bit([parameter(3)], min_8bit_size=value)


@pytest.mark.parametrize("cls", CLASSES)
def test_unknown_arguments_are_refused(cls):
    with pytest.raises(TypeError, match="capturable"):
        cls([parameter(3)], capturable=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_trainable_parameters_of_other_dtypes_are_refused(dtype):
    good, bad = parameter(3), torch.nn.Parameter(torch.ones(3, dtype=dtype))
    with pytest.raises(TypeError, match=f"parameter 1 .*{dtype}"):
        AdamW8bit([good, bad])
    with pytest.raises(TypeError, match=f"'b' .*{dtype}"):
        AdamW8bit([("a", good), ("b", bad)])


def test_a_refused_group_is_not_added():
    optimizer = AdamW8bit([parameter(3)])
    with pytest.raises(ValueError, match="lr"):
        optimizer.add_param_group({"params": [parameter(3)], "lr": -1.0})
    with pytest.raises(TypeError, match="float64"):
        optimizer.add_param_group({"params": [parameter(3, dtype=torch.float64)]})
    assert len(optimizer.param_groups) == 1


def test_frozen_integer_parameters_are_skipped_and_trained_ones_refused():
    """A quantized model hands its packed weights to `AdamW8bit(model.parameters())`."""
    packed = torch.nn.Parameter(torch.ones(4, dtype=torch.uint8), requires_grad=False)
    optimizer = AdamW8bit([packed, parameter(3)])
    optimizer.step()
    assert torch.equal(packed, torch.ones(4, dtype=torch.uint8))
    packed.grad = torch.ones_like(packed)
    with pytest.raises(TypeError, match=r"parameter 0 .*torch.uint8"):
        optimizer.step()


def test_sparse_gradients_are_refused_before_anything_changes():
    dense = parameter(3)
    table = torch.nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1])).sum().backward()
    optimizer = AdamW8bit([dense, table.weight])
    before = dense.detach().clone()
    with pytest.raises(TypeError, match=r"gradient of parameter 1 .*sparse"):
        optimizer.step()
    assert torch.equal(dense, before)
    assert not optimizer.state


def test_gradient_of_another_dtype_is_refused():
    param = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    param.grad_dtype = None  # torch accepts any gradient then
    param.grad = torch.ones(3)
    with pytest.raises(TypeError, match=r"gradient of parameter 0 .*torch.float32"):
        AdamW([param]).step()


def test_min_8bit_size_decides_by_size():
    small, large = parameter(4095), parameter(64, 64)
    optimizer = AdamW8bit([small, large])
    optimizer.step()
    assert optimizer.state[small]["state1"].dtype == torch.float32
    assert optimizer.state[large]["state1"].dtype == torch.uint8
    optimizer = AdamW8bit([small], min_8bit_size=4095)
    optimizer.step()
    assert optimizer.state[small]["state1"].dtype == torch.uint8


def test_state_takes_2_03_bytes_per_parameter():
    """Two codes, and two float32 scales for 256 values: 2 + 8/256 = 2.03125."""
    param = parameter(256, 256)
    optimizer = AdamW8bit([param])
    optimizer.step()
    kept = {key: t for key, t in optimizer.state[param].items() if key not in ("step", "format")}
    assert sum(tensor.nbytes for tensor in kept.values()) == 2.03125 * param.numel()


def test_groups_have_options_of_their_own():
    a, b = parameter(3), parameter(3)
    AdamW([{"params": [a], "lr": 0.5}, {"params": [b], "weight_decay": 0.5}], lr=0.25).step()
    # first step: the update is lr * g/|g| up to eps; decay shrinks 1 by lr * weight_decay
    expected_a, expected_b = 1 - 0.5 * 1e-2 - 0.5, 1 - 0.25 * 0.5 - 0.25
    # relative error: eps / |g| = 1e-8, and below ten float32 roundings
    assert torch.allclose(a, torch.full((3,), expected_a), rtol=10 * 2**-24 + 1e-8, atol=2**-22)
    assert torch.allclose(b, torch.full((3,), expected_b), rtol=10 * 2**-24 + 1e-8, atol=2**-22)


def test_override_of_a_parameter():
    a, b = parameter(3), parameter(3)
    optimizer = AdamW([a, b], lr=0.25)
    optimizer.override(a, lr=0.0)
    optimizer.override(a, maximize=True)  # adds to the first
    optimizer.step()
    assert torch.equal(a, torch.ones(3))
    assert not torch.equal(b, torch.ones(3))
    assert optimizer.param_groups[0]["overrides"] == {0: {"lr": 0.0, "maximize": True}}


def test_override_of_a_module_keeps_its_state_in_32_bits():
    model = torch.nn.Sequential(torch.nn.Embedding(80, 64), torch.nn.Linear(64, 80))
    optimizer = AdamW8bit(model.parameters())
    optimizer.override(model[0], state="32bit")
    model(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    assert optimizer.state[model[0].weight]["state1"].dtype == torch.float32
    assert optimizer.state[model[1].weight]["state1"].dtype == torch.uint8


def test_override_errors():
    param = parameter(64, 64)
    optimizer = AdamW8bit([param])
    with pytest.raises(TypeError, match="'momentum'"):
        optimizer.override(param, momentum=0.9)
    with pytest.raises(ValueError, match="lr must be"):
        optimizer.override(param, lr=-1.0)
    with pytest.raises(ValueError, match="no parameter of Linear is optimized here"):
        optimizer.override(torch.nn.Linear(2, 2), lr=0.1)
    optimizer.step()
    with pytest.raises(ValueError, match="override of state must come before the first step"):
        optimizer.override(param, state="32bit")
    optimizer.override(param, lr=0.1)  # hyperparameters can change at any time
    assert "state" not in optimizer.param_groups[0]["overrides"][0]
