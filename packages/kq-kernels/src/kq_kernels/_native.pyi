from typing import Any

# A NumPy-like array, or (address, number of elements, dtype name).
Array = Any

__version__: str
build: dict[str, str]

def available_isas() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def quantize_4bit(
    x: Array,
    codes: Array,
    absmax: Array,
    rows: int,
    cols: int,
    blocksize: int,
    quant_type: str,
    threads: int = 0,
    row_stride: int | None = None,
) -> None: ...
def dequantize_4bit(
    codes: Array,
    absmax: Array,
    out: Array,
    rows: int,
    cols: int,
    blocksize: int,
    quant_type: str,
    nested_absmax: Array | None = None,
    nested_code: Array | None = None,
    offset: Array | None = None,
    threads: int = 0,
) -> None: ...
def quantize_blockwise(
    x: Array,
    code: Array,
    codes: Array,
    absmax: Array,
    rows: int,
    cols: int,
    blocksize: int,
    threads: int = 0,
    row_stride: int | None = None,
) -> None: ...
def dequantize_blockwise(
    codes: Array,
    code: Array,
    absmax: Array,
    out: Array,
    rows: int,
    cols: int,
    blocksize: int,
    threads: int = 0,
) -> None: ...
def linear_4bit(
    x: Array,
    codes: Array,
    absmax: Array,
    bias: Array | None,
    out: Array,
    m: int,
    n: int,
    k: int,
    blocksize: int,
    quant_type: str,
    nested_absmax: Array | None = None,
    nested_code: Array | None = None,
    offset: Array | None = None,
    threads: int = 0,
    row_stride: int | None = None,
) -> None: ...
def linear_4bit_backward(
    grad: Array,
    codes: Array,
    absmax: Array,
    out: Array,
    m: int,
    n: int,
    k: int,
    blocksize: int,
    quant_type: str,
    nested_absmax: Array | None = None,
    nested_code: Array | None = None,
    offset: Array | None = None,
    threads: int = 0,
    row_stride: int | None = None,
) -> None: ...
def linear_4bit_grouped(
    x: Array,
    codes: Array,
    absmax: Array,
    bias: Array | None,
    out: Array,
    counts: list[int],
    n: int,
    k: int,
    blocksize: int,
    quant_type: str,
    nested_absmax: Array | None = None,
    nested_code: Array | None = None,
    offset: Array | None = None,
    threads: int = 0,
    row_stride: int | None = None,
) -> None: ...
def linear_4bit_grouped_backward(
    grad: Array,
    codes: Array,
    absmax: Array,
    out: Array,
    counts: list[int],
    n: int,
    k: int,
    blocksize: int,
    quant_type: str,
    nested_absmax: Array | None = None,
    nested_code: Array | None = None,
    offset: Array | None = None,
    threads: int = 0,
    row_stride: int | None = None,
) -> None: ...
def optimizer_step_8bit(
    rule: str,
    params: list[Array],
    grads: list[Array],
    codes: list[Array],
    absmax: list[Array],
    code_maps: list[Array],
    steps: list[int],
    hyper: list[float],
    lr: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    rounding: str = "nearest",
    corrections: list[Array] = ...,
    seeds: list[int] = ...,
    threads: int = 0,
) -> None: ...
def optimizer_step_32bit(
    rule: str,
    params: list[Array],
    grads: list[Array],
    states: list[Array],
    steps: list[int],
    hyper: list[float],
    lr: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    grad_scale: float = 1.0,
    rounding: str = "nearest",
    corrections: list[Array] = ...,
    seeds: list[int] = ...,
    threads: int = 0,
) -> None: ...
def int8_vectorwise_quant(
    x: Array,
    codes: Array,
    absmax: Array,
    outliers: Array | None,
    rows: int,
    cols: int,
    threshold: float = 0.0,
    threads: int = 0,
    row_stride: int | None = None,
) -> None: ...
def int8_vectorwise_dequant(
    codes: Array, absmax: Array, out: Array, rows: int, cols: int, threads: int = 0
) -> None: ...
def int8_linear_matmul(
    a: Array,
    b: Array,
    out: Array,
    m: int,
    n: int,
    k: int,
    threads: int = 0,
    row_stride: int | None = None,
) -> None: ...
def int8_mm_dequant(
    a: Array,
    row_absmax: Array,
    col_absmax: Array,
    bias: Array | None,
    out: Array,
    m: int,
    n: int,
    threads: int = 0,
    row_stride: int | None = None,
) -> None: ...
def int8_linear(
    x: Array,
    weight: Array,
    absmax: Array,
    bias: Array | None,
    out: Array,
    m: int,
    n: int,
    k: int,
    threshold: float = 0.0,
    threads: int = 0,
    row_stride: int | None = None,
) -> None: ...
def int8_linear_backward(
    grad: Array,
    weight: Array,
    absmax: Array,
    out: Array,
    m: int,
    n: int,
    k: int,
    threads: int = 0,
    row_stride: int | None = None,
) -> None: ...
