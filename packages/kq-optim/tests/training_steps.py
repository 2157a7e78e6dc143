"""Training for tests: steps that follow from their numbers, and checkpoints of them."""

import io

import torch


def train(optimizer, params, steps, start=0):
    """Takes steps `start` to `start + steps`, each with gradients of its own."""
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(100 + step)
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        optimizer.step()


def through_file(state_dict):
    """Saves and loads, plain tensors only."""
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def copies(params):
    """Parameters with the same values in other memory."""
    return [torch.nn.Parameter(param.detach().clone()) for param in params]
