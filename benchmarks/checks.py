"""Verdicts on contenders, from the float64 reference and the derived bounds of kq_conformance.

Matrices are checked on some of their rows (`data.sampled_rows`): blocks never cross a row, and the
first and the last row, where loops end, are always among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import kq_functional as kq
from benchmarks.data import dtype_name, sampled_rows
from benchmarks.harness import Verdict
from kq_conformance import bounds, reference

Array = NDArray[np.float64]


def float64(tensor: Tensor) -> Array:
    """The values of a tensor."""
    array: Array = tensor.detach().double().numpy()
    return array


def _equal(got: Array, expected: Array, what: str) -> Verdict:
    differing = int(np.count_nonzero(got != expected))
    if not differing:
        return Verdict(True, f"{what}: exact")
    return Verdict(False, f"{what}: {differing / got.size:.3%} differ from the definition")


def _judged(judgement: bounds.Judgement) -> Verdict:
    used = f"{judgement.rule.name}: error at most {judgement.tightness:.2g} of the bound"
    if judgement.passed:
        return Verdict(True, used)
    return Verdict(False, f"{used}, {judgement.violations} of {judgement.elements} outside")


def _both(first: Verdict, second: Verdict) -> Verdict:
    if first.correct == second.correct:
        return Verdict(first.correct, f"{first.detail}; {second.detail}")
    return second if first.correct else first


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Right if all are; the detail is that of the last one, or of the first wrong one."""
    last = Verdict(True, "nothing to compute")
    for last in verdicts:
        if not last.correct:
            break
    return last


def quantized_4bit(source: Tensor, packed: Tensor, absmax: Tensor, blocksize: int) -> Verdict:
    """Every NF4 code is the nearest one and every absmax is the maximum, bit for bit.

    Args:
        source: what was quantized, [R, C].
        packed: uint8, R * ceil(C/2) codes in any shape.
        absmax: float32, R * ceil(C/blocksize) scales in any shape.
        blocksize: elements that share a scale.
    """
    rows = sampled_rows(len(source))
    codes, scales = reference.quantize_4bit(float64(source[rows]), "nf4", blocksize)
    return _both(
        _equal(float64(packed.view(len(source), -1)[rows]), codes, "codes"),
        _equal(float64(absmax.view(len(source), -1)[rows]), scales, "absmax"),
    )


def dequantized_4bit(packed: Tensor, absmax: Tensor, out: Tensor, blocksize: int) -> Verdict:
    """Every value is code × absmax, rounded to float32 and then to the dtype of `out`."""
    rows = sampled_rows(len(out))
    expected = reference.dequantize_4bit(
        packed[rows].numpy(),
        float64(absmax[rows]),
        out.shape[1],
        "nf4",
        blocksize,
        dtype_name(out.dtype),
    )
    return _equal(float64(out[rows]), expected, "values")


def quantized_blockwise(
    source: Tensor, code: Tensor, codes: Tensor, absmax: Tensor, blocksize: int
) -> Verdict:
    """As `quantized_4bit`, with 8-bit codes of the codebook `code`."""
    rows = sampled_rows(len(source))
    expected, scales = reference.quantize_blockwise(float64(source[rows]), float64(code), blocksize)
    return _both(
        _equal(float64(codes[rows]), expected, "codes"),
        _equal(float64(absmax.view(len(source), -1)[rows]), scales, "absmax"),
    )


def dequantized_blockwise(
    codes: Tensor, code: Tensor, absmax: Tensor, out: Tensor, blocksize: int
) -> Verdict:
    """As `dequantized_4bit`, with 8-bit codes of the codebook `code`."""
    rows = sampled_rows(len(out))
    expected = reference.dequantize_blockwise(
        codes[rows].numpy(),
        float64(code),
        float64(absmax[rows]),
        blocksize,
        dtype_name(out.dtype),
    )
    return _equal(float64(out[rows]), expected, "values")


def linear_4bit(x: Tensor, packed: Tensor, absmax: Tensor, y: Tensor, blocksize: int) -> Verdict:
    """Y = x Wᵀ within the forward error bound of a product that accumulates in float32.

    Args:
        x: [M, K], in the dtype that the contender computes in.
        packed: NF4 codes of W, uint8 [N, ceil(K/2)].
        absmax: scales of W, float32 [N, ceil(K/blocksize)].
        y: the result, [M, N].
        blocksize: elements that share a scale.
    """
    rows, columns = sampled_rows(len(x)), sampled_rows(y.shape[1])
    values, scales = _weight(packed[columns], absmax[columns], x.shape[1], blocksize)
    dtype = dtype_name(x.dtype)
    enclosed = bounds.Enclosure.of(scales)
    forms = [form.transposed for form in bounds.weight_forms(values, enclosed, dtype)]
    product = bounds.Product(float64(x[rows]), forms, None, dtype)
    return _judged(product.judge(float64(y[rows][:, columns])))


def linear_4bit_training(
    x: Tensor,
    packed: Tensor,
    absmax: Tensor,
    y: Tensor,
    grad_y: Tensor,
    grad_x: Tensor,
    blocksize: int,
) -> Verdict:
    """As `linear_4bit`, and grad_x = grad_y W within the same bound.

    Args:
        x: as in `linear_4bit`.
        packed: as in `linear_4bit`.
        absmax: as in `linear_4bit`.
        y: as in `linear_4bit`.
        grad_y: [M, N] in the dtype of x.
        grad_x: the gradient of x, [M, K].
        blocksize: as in `linear_4bit`.
    """
    rows, columns = sampled_rows(len(x)), sampled_rows(x.shape[1])
    values, scales = _weight(packed, absmax, x.shape[1], blocksize)
    dtype = dtype_name(x.dtype)
    enclosed = bounds.Enclosure.of(scales[:, columns])
    forms = bounds.weight_forms(values[:, columns], enclosed, dtype)
    product = bounds.Product(float64(grad_y[rows]), forms, None, dtype)
    return _both(
        linear_4bit(x, packed, absmax, y, blocksize),
        _judged(product.judge(float64(grad_x[rows][:, columns]))),
    )


def _weight(packed: Tensor, absmax: Tensor, K: int, blocksize: int) -> tuple[Array, Array]:
    """Values of the NF4 codes and the scale of each, both [rows, K]."""
    codes = reference.unpack(packed.numpy(), K)
    scales = reference.spread(float64(absmax), K, blocksize)
    return reference.codebook_4bit("nf4").values[codes], scales


def linear_int8(x: Tensor, codes: Tensor, absmax: Tensor, threshold: float, y: Tensor) -> Verdict:
    """Y = x Wᵀ with the rows of x quantized to int8, within the bound of the scaled exact sums.

    Args:
        x: [M, K], in the dtype that the contender reads; each of its columns holds outliers in
            every row or in none.
        codes: of W, int8 [N, K].
        absmax: scales of W, float32 [N].
        threshold: magnitude of outliers, or 0.
        y: the result, [M, N].
    """
    rows, columns = sampled_rows(len(x)), sampled_rows(y.shape[1])
    chosen = float64(x[rows])
    quantized = bounds.Quantized.of(chosen, threshold, bounds.Strictness.MARGIN)
    product = bounds.Int8Product.of_rows(
        chosen,
        quantized,
        codes[columns].long().numpy(),
        float64(absmax[columns]),
        None,
        dtype_name(x.dtype),
    )
    return _judged(product.judge(float64(y[rows][:, columns])))


def kept_columns(plain: Tensor, x: Tensor, kept: kq.KeptColumns, y: Tensor) -> Verdict:
    """Y = plain + x Lᵀ for the columns L that are kept, within the roundings of a short sum.

    Args:
        plain: the result without kept columns, [M, N], judged already.
        x: [M, K] in the same dtype.
        kept: the columns and L, [N, J].
        y: the result, [M, N].
    """
    rows = sampled_rows(len(x))
    chosen, lost = float64(x[rows][:, kept.columns]), float64(kept.lost).T
    before = float64(plain[rows])
    exact = before + chosen @ lost
    # J products and what was there before, added up in the dtype at worst, and rounded once more.
    unit = torch.finfo(y.dtype).eps / 2
    roundings = len(kept.columns) + 2
    size = np.abs(before) + np.abs(chosen) @ np.abs(lost)
    bound = size * roundings * unit / (1 - roundings * unit)
    used = np.max(np.abs(float64(y[rows]) - exact) / bound)
    return Verdict(bool(used <= 1), f"kept columns: error at most {used:.2g} of the bound")


def linear_decoded_int8(x: Tensor, codes: Tensor, absmax: Tensor, y: Tensor) -> Verdict:
    """Y = x Wᵀ with x as it is, within the bound of a product that accumulates in float32.

    Args:
        x: [M, K], in the dtype that the contender computes in.
        codes: of W, int8 [N, K].
        absmax: scales of W, float32 [N].
        y: the result, [M, N].
    """
    columns = sampled_rows(y.shape[1])
    forms = bounds.int8_weight_forms(
        codes[columns].numpy(), float64(absmax[columns]), dtype_name(x.dtype)
    )
    return _product(x, [form.transposed for form in forms], y[:, columns])


def int8_gradient(grad_y: Tensor, codes: Tensor, absmax: Tensor, grad_x: Tensor) -> Verdict:
    """grad_x = grad_y W within the same bound.

    Args:
        grad_y: [M, N], in the dtype that the contender computes in.
        codes: of W, int8 [N, K].
        absmax: scales of W, float32 [N].
        grad_x: the gradient of x, [M, K].
    """
    columns = sampled_rows(grad_x.shape[1])
    forms = bounds.int8_weight_forms(
        codes[:, columns].numpy(), float64(absmax), dtype_name(grad_y.dtype)
    )
    return _product(grad_y, forms, grad_x[:, columns])


def _product(x: Tensor, forms: list[bounds.WeightForm], y: Tensor) -> Verdict:
    """Y = x times one of the forms, on some of the rows."""
    rows = sampled_rows(len(x))
    product = bounds.Product(float64(x[rows]), forms, None, dtype_name(x.dtype))
    return _judged(product.judge(float64(y[rows])))


@dataclass(frozen=True)
class States:
    """An optimizer's states of one parameter, as numbers.

    Attributes:
        values: in the shape of the parameter, in the order of the rule.
        step: steps taken.
        decoded: whether they are products, code × absmax, that the step rounds.
    """

    values: tuple[Tensor, ...]
    step: int
    decoded: bool


def decode_state(codes: Tensor, absmax: Tensor, code: Tensor) -> Tensor:
    """An 8-bit state as numbers, float64, in the shape of the codes."""
    scales = absmax.double().repeat_interleave(reference.OPTIMIZER_BLOCKSIZE)[: codes.numel()]
    return code.double()[codes.int()] * scales.view(codes.shape)


def optimizer_step(
    rule: str, before: Tensor, grad: Tensor, states: States, after: Tensor, hyper: reference.Hyper
) -> Verdict:
    """The new parameter, within the forward error bound of one step from the state before it.

    Args:
        rule: a rule of the reference.
        before: the parameter before the step, [R, C].
        grad: the gradient.
        states: the states before the step.
        after: the parameter after it.
        hyper: hyperparameters.
    """
    rows = sampled_rows(len(before))
    p, g, *values = (float64(each[rows]).ravel() for each in (before, grad, *states.values))
    step = states.step + 1
    enclosed = [bounds.Enclosure.of(each).rounded(int(states.decoded)) for each in values]
    enclosure = bounds.enclose_step(rule, p, g, tuple(enclosed), step, hyper)
    expected, _ = reference.optimizer_step(rule, p, g, tuple(values), step, hyper)
    dtype = dtype_name(before.dtype)
    accepted = bounds.accept_param(rule, "parameter", expected, enclosure, dtype)
    with torch.no_grad():
        return _judged(accepted.judge(float64(after[rows]).ravel()))
