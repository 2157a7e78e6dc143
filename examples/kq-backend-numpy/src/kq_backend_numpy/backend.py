"""What the backend declares, and a method for each operation, which writes into its outputs."""

from typing import Any, NamedTuple

import numpy as np

from .arrays import TABLES, Array, T, dequantize, load, quantize, store


class Capability(NamedTuple):
    """An operation, and for which arguments; None means any."""

    op: str
    quant_types: frozenset[str] = frozenset()
    blocksizes: frozenset[int] | None = None
    rules: frozenset[str] = frozenset()
    roundings: frozenset[str] = frozenset({"nearest"})
    dtypes: frozenset[str] = frozenset({"float32", "bfloat16", "float16"})
    devices: frozenset[str] | None = frozenset({"cpu"})


_4BIT = frozenset(TABLES), frozenset(2**n for n in range(5, 13))


def _begin(op: str, *tensors: T, **asked: Any) -> np.errstate:
    """Refuse what is not declared; return a context in which NaN and Inf cause no warnings."""
    dtypes = [("dtype", str(tensor.dtype).removeprefix("torch.")) for tensor in tensors]
    devices = [("device", tensor.device.type) for tensor in tensors]
    for name, value in [*asked.items(), *dtypes, *devices]:
        accepted = next(getattr(c, name + "s") for c in NumpyBackend.capabilities if c.op == op)
        if value < 1 if accepted is None else value not in accepted:  # None: any block size
            raise NotImplementedError(f"{op} is not declared for {name} {value!r}")
    return np.errstate(all="ignore")


def _weights(packed: T, scales: T, cols: int, quant_type: str, blocksize: int) -> Array:
    pairs, absmax = load(packed), load(scales.absmax)
    if scales.nested_absmax is not None:  # codes themselves, in blocks of 256
        row = dequantize(absmax.ravel(), load(scales.nested_absmax), load(scales.nested_code), 256)
        absmax = (row + load(scales.offset)).reshape(absmax.shape)
    codes = np.stack((pairs >> 4, pairs & 15), axis=2).reshape(len(pairs), 2 * pairs.shape[1])
    return dequantize(codes[:, :cols], absmax, TABLES[quant_type], blocksize)


def _adam(step: int, h: Any, g: Array, p: Array, m: Array, v: Array) -> tuple[Array, Array, Array]:
    """Return new p, m, v in float32; each constant is computed in double and rounded once."""
    c1, c2 = 1 - h["beta1"] ** step, (1 - h["beta2"] ** step) ** 0.5
    g = g / np.float32(h["grad_scale"]) * (-1 if h["maximize"] else 1)
    g = g + h["weight_decay"] * p if h["weight_decay"] and not h["decoupled"] else g
    p = p * (1 - h["lr"] * h["weight_decay"]) if h["decoupled"] else p
    m = h["beta1"] * m + (1 - h["beta1"]) * g
    v = h["beta2"] * v + (1 - h["beta2"]) * (g * g)
    return p - (h["lr"] * c2 / c1) * m / (np.sqrt(v) + h["eps"] * c2), m, v


class NumpyBackend:
    """Every operation of kq on CPU. R and C are rows and columns, nb is ceil(C / blocksize)."""

    name = "numpy"
    version = "0.1.0"
    capabilities = (
        Capability("quantize_4bit", *_4BIT),
        Capability("dequantize_4bit", *_4BIT),
        Capability("quantize_blockwise"),
        Capability("dequantize_blockwise"),
        Capability("linear_4bit", *_4BIT),
        Capability("linear_4bit_backward", *_4BIT),
        Capability("optimizer_step_8bit", rules=frozenset({"adam"})),
        Capability("optimizer_step_32bit", rules=frozenset({"adam"})),
    )

    def describe(self) -> dict[str, str]:
        """Return what a bug report needs to know."""
        return {"numpy": np.__version__}

    def quantize_4bit(self, A: T, packed: T, absmax: T, *, quant_type: str, blocksize: int) -> None:
        """A [R, C] -> packed [R, ceil(C/2)], absmax [R, nb]."""
        with _begin("quantize_4bit", A, quant_type=quant_type, blocksize=blocksize):
            padded = np.pad(load(A), ((0, 0), (0, A.shape[1] % 2)))  # 0 gets the code of zero
            codes, scales = quantize(padded, TABLES[quant_type], blocksize)
            store([packed, absmax], [codes[:, ::2] << 4 | codes[:, 1::2], scales])

    def dequantize_4bit(self, packed: T, scales: T, out: T, **form: Any) -> None:
        """The packed codes of W [R, C] -> out."""
        with _begin("dequantize_4bit", out, **form):
            store([out], [_weights(packed, scales, out.shape[1], **form)])

    def quantize_blockwise(self, A: T, code: T, codes: T, absmax: T, *, blocksize: int) -> None:
        """A [R, C], ascending code [256] -> codes [R, C], absmax [R, nb]."""
        with _begin("quantize_blockwise", A, blocksize=blocksize):
            store([codes, absmax], quantize(load(A), load(code), blocksize))

    def dequantize_blockwise(self, codes: T, code: T, absmax: T, out: T, *, blocksize: int) -> None:
        """The codes [R, C] -> out."""
        with _begin("dequantize_blockwise", out, blocksize=blocksize):
            store([out], [dequantize(load(codes), load(absmax), load(code), blocksize)])

    def linear_4bit(self, x: T, packed: T, scales: T, bias: T, out: T, **form: Any) -> None:
        """The product x [M, K] @ W.T + bias -> out [M, N]."""
        with _begin("linear_4bit", x, **form):
            w = _weights(packed, scales, x.shape[1], **form)
            product = np.einsum("mk,nk->mn", load(x), w)  # one order of summation; `@` has several
            store([out], [product if bias is None else product + load(bias)])

    def linear_4bit_backward(self, grad: T, packed: T, scales: T, out: T, **form: Any) -> None:
        """The product grad [M, N] @ W -> out [M, K]."""
        with _begin("linear_4bit_backward", grad, **form):
            w = _weights(packed, scales, out.shape[1], **form)
            store([out], [np.einsum("mn,nk->mk", load(grad), w)])

    def optimizer_step_8bit(
        self, rule: str, params: T, grads: T, codes: T, absmax: T, code_maps: T, steps: T, **h: Any
    ) -> None:
        """Step n parameters by hyperparameters h; codes, absmax: n first moments, then n second."""
        with _begin("optimizer_step_8bit", *params, rule=rule, rounding=h["rounding"]):
            n, tables = len(params), [load(each) for each in code_maps]
            for i, step in enumerate(steps):
                states = list(zip(codes[i::n], absmax[i::n], tables, strict=True))
                m, v = (dequantize(load(c).ravel(), load(a), table, 256) for c, a, table in states)
                p, *moments = _adam(step, h, load(grads[i]).ravel(), load(params[i]).ravel(), m, v)
                store([params[i]], [p])
                for (c, a, table), moment in zip(states, moments, strict=True):
                    store([c, a], quantize(moment, table, 256))

    def optimizer_step_32bit(
        self, rule: str, params: T, grads: T, states: T, steps: T, **h: Any
    ) -> None:
        """Step n parameters by hyperparameters h; states: n first moments, then n second."""
        with _begin("optimizer_step_32bit", *params, rule=rule, rounding=h["rounding"]):
            for i, step in enumerate(steps):
                changed = [params[i], *states[i :: len(params)]]
                store(changed, _adam(step, h, load(grads[i]), *map(load, changed)))
