"""The dense twin of a quantized model."""

from __future__ import annotations

import copy

import torch
from torch import nn

import kq_nn


def with_decoded_weights(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in which dense layers hold what the quantized ones decode to.

    Args:
        model: with quantized layers of kq; it is not changed.
        dtype: of all parameters of the copy.
    """
    dense = copy.deepcopy(model)
    for name, module in list(dense.named_modules()):
        if kq_nn.is_quantized(module):
            weight = module.dequantize(dtype)
            N, K = weight.shape
            plain = nn.Linear(K, N, bias=False, device="meta")
            plain.weight, plain.bias = nn.Parameter(weight), module.bias
            dense.set_submodule(name, plain)
    return dense.to(dtype)
