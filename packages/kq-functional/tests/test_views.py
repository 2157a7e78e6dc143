"""What the ops hand to a backend: slices as they are where rows allow it, else a copy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import kq_functional as kq
from kq_functional.backends.torch import TorchBackend
from kq_functional.ops.checks import row_matrix

WIDE = torch.randn(2, 3, 130, generator=torch.Generator().manual_seed(5))
D = 70
# How a view is cut out of WIDE, and the strides with which it reaches a backend.
SEEN: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, int]]] = {
    "whole": (lambda w: w, (130, 1)),
    "columns": (lambda w: w[..., :D], (130, 1)),
    "later columns": (lambda w: w[..., 60:], (130, 1)),
    "columns of a matrix": (lambda w: w[1][:, 7:77], (130, 1)),
    "every other row": (lambda w: w.view(6, 130)[::2], (260, 1)),
    "one row of each": (lambda w: w[:, 1], (390, 1)),
    "with dimensions of one": (lambda w: w[:1, None, ..., :D], (130, 1)),
    "one column": (lambda w: w[..., :1], (130, 1)),
    "one row": (lambda w: w[1, 1, :D], (D, 1)),
}
COPIED: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "rows at two distances": (lambda w: w[:, :2, :D], D),
    "transposed": (lambda w: w[0].t(), 3),
    "rows in another order": (lambda w: w.transpose(0, 1)[..., :D], D),
    "expanded": (lambda w: w[0, 0, :D].expand(4, D), D),
    "every other column": (lambda w: w[..., ::2], 65),
    "overlapping": (lambda w: w.flatten().unfold(0, D, 10), D),
}


@pytest.mark.parametrize("name", SEEN)
def test_no_copy_where_rows_are_whole_and_even(name: str) -> None:
    cut, strides = SEEN[name]
    view = cut(WIDE)
    rows, cols = view.shape[:-1].numel(), view.shape[-1]
    seen = row_matrix(view, rows, cols)
    assert seen.data_ptr() == view.data_ptr()
    assert seen.shape == (rows, cols)
    assert seen.is_contiguous() or seen.stride() == strides
    assert torch.equal(seen, view.reshape(rows, cols))


@pytest.mark.parametrize("name", COPIED)
def test_a_contiguous_copy_otherwise(name: str) -> None:
    cut, cols = COPIED[name]
    view = cut(WIDE)
    seen = row_matrix(view, view.shape[:-1].numel(), cols)
    assert seen.data_ptr() != view.data_ptr()
    assert seen.stride(1) == 1
    assert seen.stride(0) >= cols
    assert torch.equal(seen, view.reshape(-1, cols))


def test_the_flat_layout_is_one_contiguous_row() -> None:
    view = WIDE[..., :D]
    assert torch.equal(row_matrix(view, 1, 6 * D), view.reshape(1, -1))


@pytest.mark.parametrize("name", [*SEEN, *COPIED])
def test_results_do_not_depend_on_strides(backend: str, name: str) -> None:
    cut, _ = (SEEN | COPIED)[name]
    view = cut(WIDE)
    dense = view.contiguous()
    for layout in ("row", "flat"):
        for quantize in (kq.quantize_4bit, kq.quantize_blockwise):
            codes, state = quantize(view, layout=layout, blocksize=64)
            expected, expected_state = quantize(dense, layout=layout, blocksize=64)
            assert torch.equal(codes, expected)
            assert torch.equal(state.absmax, expected_state.absmax)
    # Weights of 1 and inputs of -1, 0 and 1 make every sum exact, whatever its order.
    for layout in ("row", "flat"):
        packed, state = kq.quantize_4bit(torch.ones(11, view.shape[-1]), layout=layout)
        assert torch.equal(
            kq.linear_4bit(view.sign(), packed, state),
            view.sign().sum(-1, keepdim=True).expand(*view.shape[:-1], 11),
        )


@pytest.mark.parametrize("layout", ["row", "flat"])
def test_slices_reach_the_backend(monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    seen: list[Tensor] = []

    def spy(op: str) -> None:
        real = getattr(TorchBackend, op)

        def call(self: TorchBackend, first: Tensor, *args: object, **options: object) -> None:
            seen.append(first)
            real(self, first, *args, **options)

        monkeypatch.setattr(TorchBackend, op, call)

    for op in ("quantize_4bit", "quantize_blockwise", "linear_4bit", "linear_4bit_backward"):
        spy(op)
    x = WIDE[..., :64]
    packed, state = kq.quantize_4bit(torch.ones(30, 64), layout=layout)
    with kq.use_backend("torch"):
        kq.quantize_4bit(x)
        kq.quantize_blockwise(x)
        kq.linear_4bit(x, packed, state)
        grad = WIDE[..., 64:94]
        leaf = x.clone().requires_grad_()
        kq.linear_4bit(leaf, packed, state).backward(grad)
    taken = [tensor for tensor in seen if tensor.data_ptr() in (x.data_ptr(), grad.data_ptr())]
    assert [t.stride() for t in taken] == [(130, 1)] * 4
