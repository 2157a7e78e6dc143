"""What accelerate, torch's distributed checkpoints and gradient scaling do to an optimizer."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import distribute_tensor

import kq_functional as kq
from kq_optim import SGD, Adam, AdamW, AdamW8bit, PagedAdamW8bit, keep_embeddings_32bit

BOTH = pytest.mark.parametrize("state", ["32bit", "8bit"])


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 80), torch.nn.ReLU(), torch.nn.Linear(80, 3))


def train(net, optimizer, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(4, 64, generator=generator)).pow(2).sum().backward()
        optimizer.step()


def test_empty_optimizer_round_trip_as_accelerate_does():
    """AcceleratedOptimizer: state_dict, move every tensor, load_state_dict, before any step."""
    net = model()
    optimizer = AdamW8bit(net.parameters(), lr=0.01)
    optimizer.load_state_dict(optimizer.state_dict())
    train(net, optimizer, 1)
    assert optimizer.param_groups[0]["lr"] == 0.01


@BOTH
def test_step_with_zero_gradients_and_zero_lr_moves_nothing(state):
    """How distributed checkpointing makes an optimizer create its state."""
    net = model()
    optimizer = Adam(net.parameters(), lr=torch.tensor(0.0), weight_decay=0.1, state=state)
    before = [param.detach().clone() for param in net.parameters()]
    for param in net.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    for param, old in zip(net.parameters(), before, strict=True):
        assert torch.equal(param, old)
        assert optimizer.state[param]["state1"].shape == param.shape


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("flatten", [False, True])
@BOTH
def test_distributed_checkpoint_resumes_bit_identically(state, flatten, tmp_path):
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    net, resumed = model(), model()
    optimizer = Adam(net.parameters(), lr=0.01, state=state)
    train(net, optimizer, 2)
    saved = {"optimizer": get_optimizer_state_dict(net, optimizer, options=options)}
    dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)

    resumed.load_state_dict(net.state_dict())
    other = Adam(resumed.parameters(), lr=0.5, state=state)
    loaded = {"optimizer": get_optimizer_state_dict(resumed, other, options=options)}
    dcp.load(loaded, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(resumed, other, loaded["optimizer"], options=options)

    train(net, optimizer, 2, seed=1)
    train(resumed, other, 2, seed=1)
    for left, right in zip(net.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)


@BOTH
def test_gradient_scaler_leaves_unscaling_to_the_step(state):
    """As torch's fused optimizers: the gradients stay scaled, the step divides them."""
    net, plain = model(), model()
    optimizer = Adam(net.parameters(), lr=0.01, state=state)
    reference = Adam(plain.parameters(), lr=0.01, state=state)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)  # powers of two scale exactly
    data = torch.randn(4, 64)
    for _ in range(3):
        optimizer.zero_grad()
        reference.zero_grad()
        scaler.scale(net(data).pow(2).sum()).backward()
        plain(data).pow(2).sum().backward()
        with kq.use_backend("torch"):  # the same one, whatever others declare
            scaler.step(optimizer)
            reference.step()
        scaler.update()
    for left, right in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(left, right)
        assert torch.equal(left.grad, right.grad * 2.0**10)
    assert not hasattr(optimizer, "grad_scale")


def test_gradient_scaler_may_unscale_first():
    """As for clipping: the step must not divide again."""
    net, plain = model(), model()
    optimizer, reference = SGD(net.parameters(), lr=0.01), SGD(plain.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    data = torch.randn(4, 64)
    scaler.scale(net(data).pow(2).sum()).backward()
    plain(data).pow(2).sum().backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    reference.step()
    for left, right in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(left, right)


@BOTH
def test_gradient_scaler_skips_steps_with_infinite_gradients(state):
    net = model()
    optimizer = AdamW(net.parameters(), state=state)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = [param.detach().clone() for param in net.parameters()]
    loss = net(torch.randn(4, 64)).sum()
    scaler.scale(loss * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0
    assert not any(optimizer.state.values())
    for param, old in zip(net.parameters(), before, strict=True):
        assert torch.equal(param, old)
    optimizer.zero_grad()
    scaler.scale(net(torch.randn(4, 64)).sum()).backward()
    scaler.step(optimizer)
    assert not torch.equal(net[0].weight, before[0])


def test_torch_would_skip_like_that():
    """The protocol, so that this test fails when torch changes it."""
    assert Adam._step_supports_amp_scaling
    net = model()
    fused = torch.optim.Adam(net.parameters(), fused=True)
    assert fused._step_supports_amp_scaling


@pytest.mark.parametrize("cls", [AdamW8bit, PagedAdamW8bit])
def test_accelerate_prepares_and_steps(cls):
    accelerate = pytest.importorskip("accelerate")
    net, plain = model(), model()
    optimizer, reference = cls(net.parameters(), lr=0.01), cls(plain.parameters(), lr=0.01)
    accelerator = accelerate.Accelerator(cpu=True)
    prepared, stepped = accelerator.prepare(net, optimizer)
    data = torch.randn(4, 64)
    for _ in range(2):
        stepped.zero_grad()
        reference.zero_grad()
        accelerator.backward(prepared(data).pow(2).sum())
        plain(data).pow(2).sum().backward()
        stepped.step()
        reference.step()
    for left, right in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(left, right)


def test_embeddings_are_kept_in_32_bits():
    net = torch.nn.Sequential(
        torch.nn.Embedding(80, 64), torch.nn.Linear(64, 80), torch.nn.EmbeddingBag(80, 64)
    )
    net[1].weight = net[0].weight  # tied
    frozen = torch.nn.Embedding(80, 64)  # of the model, but not of the optimizer
    whole = torch.nn.ModuleList([net, frozen])
    optimizer = AdamW8bit(net.parameters())
    assert keep_embeddings_32bit(optimizer, whole) == ["0.0", "0.2"]
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    for module in (net[0], net[2]):
        assert optimizer.state[module.weight]["state1"].dtype == torch.float32
    with pytest.raises(ValueError, match="must come before the first step"):
        keep_embeddings_32bit(optimizer, whole)


def test_sharded_parameters_are_refused():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        param = torch.nn.Parameter(distribute_tensor(torch.ones(4), mesh))
        with pytest.raises(TypeError, match=r"parameter 0 .* is a DTensor"):
            AdamW8bit([param])
    finally:
        dist.destroy_process_group()


def test_import_pulls_in_nothing_unexpected():
    code = (
        "import sys, kq_optim; "
        "print([m for m in ('kq_nn', 'kq_hf', 'transformers', 'peft', 'triton', 'scipy') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
