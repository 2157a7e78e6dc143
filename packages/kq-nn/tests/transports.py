"""What saved models go through, and how they are compared afterwards."""

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file


def through_torch(state_dict, tmp_path):
    torch.save(state_dict, tmp_path / "model.pt")
    return torch.load(tmp_path / "model.pt", weights_only=True)


def through_safetensors(state_dict, tmp_path):
    save_file(state_dict, tmp_path / "model.safetensors")
    return load_file(tmp_path / "model.safetensors")


def through_dcp(state_dict, tmp_path):
    dcp.save(state_dict, checkpoint_id=tmp_path / "dcp", no_dist=True)
    loaded = {name: torch.zeros_like(tensor) for name, tensor in state_dict.items()}
    dcp.load(loaded, checkpoint_id=tmp_path / "dcp", no_dist=True)
    return loaded


def assert_same_model(left, right, size=1):
    """Equal state dicts, and equal results for inputs [3, 101] of standard deviation `size`."""
    for (name, tensor), (other_name, other) in zip(
        left.state_dict().items(), right.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert tensor.dtype == other.dtype, name
        assert torch.equal(tensor, other), name
    x = torch.randn(3, 101, generator=torch.Generator().manual_seed(1)) * size
    assert torch.equal(left(x), right(x))
