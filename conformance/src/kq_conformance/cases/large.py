"""Cases of more than 2**31 elements, for FULL.

Row r of a matrix is a window of one short array that begins at its block r, so that no two rows are
the same, an index that overflows finds something else, and yet everything that the reference has to
compute is the short array: block b of row r is its block r + b.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import as_strided

from kq_conformance.cases.case import Case, Demand, Problem, Profile
from kq_conformance.cases.codebooks import CODE_MAPS
from kq_conformance.cases.dequantizers import Dequantize4bit, DequantizeBlockwise
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.large_linear import LargeLinear
from kq_conformance.cases.optimizers import usual_step_8bit
from kq_conformance.cases.quantizers import Quantize4bit, QuantizeBlockwise
from kq_conformance.cases.tiles import Part, Tiled
from kq_conformance.cases.weights import Weights
from kq_conformance.floats import Array, Float64, Stored, store, stored_bytes, values_of
from kq_conformance.reference import (
    OPTIMIZER_BLOCKSIZE,
    count_blocks,
    dequantize_4bit,
    dequantize_blockwise,
    quantize_4bit,
    quantize_blockwise,
)
from kq_conformance.subject import Outputs, StoredScales

__all__ = [
    "by_row",
    "decoded_4bit",
    "decoded_blockwise",
    "encoded_4bit",
    "encoded_blockwise",
    "large_cases",
    "product",
    "step_8bit",
    "windows",
]

_DTYPE, _QUANT_TYPE, _MAP = "bfloat16", "nf4", "dynamic-signed"
# Rows of one more, or two more, than whole blocks, so that they begin anywhere.
_ROWS, _COLS = 32_771, 65_537
_EVEN_COLS = 65_538  # windows of packed codes begin at whole bytes, and have no padding
_PARAMETERS = (32_771, 65_792)  # 65,792 = 256 · 257: blocks do not straddle rows


def windows(short: Array, rows: int, cols: int, shift: int) -> Array:
    """View an array [n] as [rows, cols], row r beginning at its element r · shift."""
    assert (rows - 1) * shift + cols <= short.size
    step = short.itemsize
    return as_strided(short, (rows, cols), (shift * step, step), writeable=False)


def by_row(problem: Callable[[slice], Problem]) -> Part:
    """The question about one row, and the part of the results that answers it."""

    def part(outputs: Outputs, row: int) -> tuple[Problem, Outputs]:
        one = slice(row, row + 1)
        answer = {name: Stored(each.bits[one], each.dtype) for name, each in outputs.items()}
        return problem(one), answer

    return part


def _encoded(
    draw: Draw,
    shape: tuple[int, int],
    blocksize: int,
    name: str,
    ask: Callable[[Stored], Problem],
    encode: Callable[[Float64], tuple[Array, Float64]],
) -> Tiled:
    """A quantizer's call; `encode` is the reference, `name` that of the codes in the results."""
    rows, cols = shape
    whole, tail = divmod(cols, blocksize)
    short = store(draw.bell((rows + whole) * blocksize), _DTYPE)
    x = windows(short.bits, rows, cols, blocksize)

    def expected(outputs: Outputs) -> dict[str, list[Array]]:
        del outputs
        codes, absmax = encode(values_of(short).reshape(-1, blocksize))
        scales = store(absmax, "float32").bits.reshape(-1)
        width = codes.shape[1]
        pieces = {
            name: [windows(codes.reshape(-1), rows, whole * width, width)],
            "absmax": [windows(scales, rows, whole, 1)],
        }
        if tail:
            codes, absmax = encode(values_of(Stored(x[:, whole * blocksize :], _DTYPE)))
            pieces[name].append(codes)
            pieces["absmax"].append(store(absmax, "float32").bits)
        return pieces

    def problem(chosen: slice) -> Problem:
        return ask(Stored(x[chosen], _DTYPE))

    return Tiled(problem(slice(None)), expected, by_row(problem))


def encoded_4bit(draw: Draw, rows: int, cols: int, blocksize: int) -> Tiled:
    """quantize_4bit of a matrix of windows."""
    return _encoded(
        draw,
        (rows, cols),
        blocksize,
        "packed",
        lambda x: Quantize4bit(x, _QUANT_TYPE, blocksize),
        lambda x: quantize_4bit(x, _QUANT_TYPE, blocksize),
    )


def encoded_blockwise(draw: Draw, rows: int, cols: int, blocksize: int) -> Tiled:
    """quantize_blockwise of a matrix of windows."""
    code = CODE_MAPS[_MAP]()
    return _encoded(
        draw,
        (rows, cols),
        blocksize,
        "codes",
        lambda x: QuantizeBlockwise(x, store(code, "float32"), blocksize),
        lambda x: quantize_blockwise(x, code, blocksize),
    )


def _decoded(
    draw: Draw,
    shape: tuple[int, int],
    blocksize: int,
    per_byte: int,
    ask: Callable[[Array, Stored], Problem],
    decode: Callable[[Array, Float64], Float64],
) -> Tiled:
    """A decoder's call; `decode` is the reference, `per_byte` the codes in a byte."""
    rows, cols = shape
    blocks = rows + cols // blocksize
    width = blocksize // per_byte
    codes = draw.integers(256, blocks * width).astype(np.uint8)
    absmax = store(draw.magnitudes(-6, 3, blocks), "float32")
    matrix = windows(codes, rows, cols // per_byte, width)
    scales = windows(absmax.bits, rows, count_blocks(cols, blocksize), 1)

    def expected(outputs: Outputs) -> dict[str, list[Array]]:
        del outputs
        values = decode(codes.reshape(-1, width), values_of(absmax).reshape(-1, 1))
        return {"out": [windows(store(values, _DTYPE).bits.reshape(-1), rows, cols, blocksize)]}

    def problem(chosen: slice) -> Problem:
        return ask(matrix[chosen], Stored(scales[chosen], "float32"))

    return Tiled(problem(slice(None)), expected, by_row(problem))


def decoded_4bit(draw: Draw, rows: int, cols: int, blocksize: int) -> Tiled:
    """dequantize_4bit of a matrix of windows; `cols` is even."""
    return _decoded(
        draw,
        (rows, cols),
        blocksize,
        2,
        lambda packed, absmax: Dequantize4bit(
            Weights(packed, StoredScales(absmax), cols, _QUANT_TYPE, blocksize), _DTYPE
        ),
        lambda packed, absmax: dequantize_4bit(
            packed, absmax, blocksize, _QUANT_TYPE, blocksize, _DTYPE
        ),
    )


def decoded_blockwise(draw: Draw, rows: int, cols: int, blocksize: int) -> Tiled:
    """dequantize_blockwise of a matrix of windows."""
    code = CODE_MAPS[_MAP]()
    return _decoded(
        draw,
        (rows, cols),
        blocksize,
        1,
        lambda codes, absmax: DequantizeBlockwise(
            stored_bytes(codes), store(code, "float32"), absmax, _DTYPE, blocksize
        ),
        lambda codes, absmax: dequantize_blockwise(codes, code, absmax, blocksize, _DTYPE),
    )


def product(draw: Draw, rows: int, cols: int, blocksize: int, *, gradient: bool) -> LargeLinear:
    """linear_4bit of one row, or its gradient, with weights [rows, cols] of windows."""
    blocks = rows + cols // blocksize
    packed = draw.integers(256, blocks * blocksize // 2).astype(np.uint8).reshape(blocks, -1)
    absmax = store(0.02 + 0.06 * draw.uniform(blocks), "float32")
    weights = Weights(
        windows(packed.reshape(-1), rows, cols // 2, blocksize // 2),
        StoredScales(
            Stored(windows(absmax.bits, rows, count_blocks(cols, blocksize), 1), "float32")
        ),
        cols,
        _QUANT_TYPE,
        blocksize,
    )
    row = store(draw.bell(1, rows if gradient else cols), _DTYPE)
    return LargeLinear(row, weights, packed, values_of(absmax), gradient)


def step_8bit(draw: Draw, rows: int, cols: int) -> Tiled:
    """optimizer_step_8bit of one parameter with equal rows of whole blocks.

    A row that came out like the first one is accepted, and the first one is judged.
    """
    one = usual_step_8bit(draw, cols, _DTYPE)

    def tall(row: Stored) -> Stored:
        return Stored(np.broadcast_to(row.bits, (rows, row.bits.size)), row.dtype)

    def repeated(row: Stored) -> Stored:
        return Stored(np.tile(row.bits, rows), row.dtype)

    whole = replace(
        one,
        params=[tall(each) for each in one.params],
        grads=[tall(each) for each in one.grads],
        codes=[tall(each) for each in one.codes],
        absmax=[repeated(each) for each in one.absmax],
    )

    def expected(outputs: Outputs) -> dict[str, list[Array]]:
        first = {name: each.bits.reshape(rows, -1)[:1] for name, each in outputs.items()}
        return {name: [np.broadcast_to(bits, (rows, bits.size))] for name, bits in first.items()}

    def part(outputs: Outputs, row: int) -> tuple[Problem, Outputs]:
        return one, {
            name: Stored(each.bits.reshape(rows, -1)[row], each.dtype)
            for name, each in outputs.items()
        }

    return Tiled(whole, expected, part)


def _bytes(rows: int, cols: int, per_element: float, blocksize: int) -> int:
    """Memory of a matrix with so many bytes an element in all tensors, and of its scales."""
    return int(rows * cols * per_element) + 4 * rows * count_blocks(cols, blocksize)


def large_cases() -> Iterator[Case]:
    """One case for each operation whose tensors fit 14 GB."""

    def case(
        op: str, quant_type: str | None, blocksize: int, name: str, memory: int,
        make: Callable[[Draw], Problem],
    ) -> Case:  # fmt: skip
        rule = "adam" if op.startswith("optimizer") else None
        parts = [op, quant_type or rule or _MAP, f"b{blocksize}", _DTYPE, name]
        case_id = "/".join(part for part in parts if rule is None or part != f"b{blocksize}")
        demand = Demand(op, _DTYPE, quant_type, blocksize, rule)
        return Case(case_id, Profile.FULL, demand, make, memory=memory)

    odd, even = f"r{_ROWS}-c{_COLS}", f"r{_ROWS}-c{_EVEN_COLS}"
    yield case(
        "quantize_4bit", _QUANT_TYPE, 64, odd, _bytes(_ROWS, _COLS, 2.5, 64),
        lambda draw: encoded_4bit(draw, _ROWS, _COLS, 64),
    )  # fmt: skip
    yield case(
        "dequantize_4bit", _QUANT_TYPE, 64, even, _bytes(_ROWS, _EVEN_COLS, 2.5, 64),
        lambda draw: decoded_4bit(draw, _ROWS, _EVEN_COLS, 64),
    )  # fmt: skip
    yield case(
        "quantize_blockwise", None, 256, odd, _bytes(_ROWS, _COLS, 3, 256),
        lambda draw: encoded_blockwise(draw, _ROWS, _COLS, 256),
    )  # fmt: skip
    yield case(
        "dequantize_blockwise", None, 256, odd, _bytes(_ROWS, _COLS, 3, 256),
        lambda draw: decoded_blockwise(draw, _ROWS, _COLS, 256),
    )  # fmt: skip
    for op, gradient in (("linear_4bit", False), ("linear_4bit_backward", True)):
        yield case(
            op, _QUANT_TYPE, 64, f"m1-n{_ROWS}-k{_EVEN_COLS}",
            _bytes(_ROWS, _EVEN_COLS, 0.5, 64),
            lambda draw, gradient=gradient: product(  # type: ignore[misc]
                draw, _ROWS, _EVEN_COLS, 64, gradient=gradient
            ),
        )  # fmt: skip
    rows, cols = _PARAMETERS
    yield case(
        "optimizer_step_8bit", None, OPTIMIZER_BLOCKSIZE, f"n{rows * cols}",
        _bytes(rows, cols, 6, OPTIMIZER_BLOCKSIZE // 2),
        lambda draw: step_8bit(draw, rows, cols),
    )  # fmt: skip
