"""Cases of the public functions of kq-functional: how users reach a backend."""

from collections.abc import Iterator
from dataclasses import replace

from kq_conformance.cases.case import Case, Demand, Profile, address
from kq_conformance.cases.contract import contract_case
from kq_conformance.cases.draw import Draw
from kq_conformance.cases.grouped_problems import Experts
from kq_conformance.cases.public_int8 import public_int8_cases
from kq_conformance.cases.public_problems import (
    BiasGradient,
    Check,
    CompressStatistics,
    GroupedBiasGradient,
    Through,
)
from kq_conformance.cases.weights import random_weights
from kq_conformance.floats import FORMATS, store
from kq_conformance.reference import OPTIMIZER_BLOCKSIZE, RULES
from kq_conformance.subject import Route

__all__ = ["ERRORS", "public_cases"]

_PRODUCTS = (Route.PLAIN, Route.TRANSPOSED, Route.SLICED, Route.EXPANDED)
_MATRICES = (Route.PLAIN, Route.TRANSPOSED, Route.SLICED)  # for functions that take no batches
_RESULTS = (Route.PLAIN, Route.OUT)

# The cases of the contract that are also called through the public functions, and by which routes.
_ROUTES: dict[str, tuple[Route, ...]] = {
    "quantize_4bit/nf4/b64/{}/random": tuple(Route),
    "quantize_4bit/fp4/b64/{}/random": _RESULTS,
    "quantize_4bit/nf4/b64/{}/empty-r0-c64": _RESULTS,
    "quantize_4bit/nf4/b64/{}/empty-r3-c0": _RESULTS,
    "dequantize_4bit/nf4/b64/{}/all-codes": tuple(Route),
    "dequantize_4bit/fp4/b64/{}/all-codes": _RESULTS,
    "dequantize_4bit/nf4/b64/{}/nested": _RESULTS,
    "dequantize_4bit/nf4/b64/{}/empty-r0-c64": _RESULTS,
    "dequantize_4bit/nf4/b64/{}/empty-r3-c0": _RESULTS,
    "quantize_blockwise/dynamic-signed/b256/{}/random": tuple(Route),
    "quantize_blockwise/dynamic-signed/b256/{}/empty-r0-c64": _RESULTS,
    "quantize_blockwise/dynamic-signed/b256/{}/empty-r3-c0": _RESULTS,
    "dequantize_blockwise/dynamic-signed/b256/{}/all-codes": tuple(Route),
    "dequantize_blockwise/dynamic-signed/b256/{}/empty-r0-c64": _RESULTS,
    "dequantize_blockwise/dynamic-signed/b256/{}/empty-r3-c0": _RESULTS,
    "linear_4bit/nf4/b64/{}/m1-n48-k130/bias": _PRODUCTS,
    "linear_4bit/nf4/b64/{}/m5-n33-k257/bias/nested": _PRODUCTS,
    "linear_4bit/fp4/b64/{}/m5-n33-k257": (Route.PLAIN,),
    "linear_4bit/nf4/b64/{}/m0-n16-k64/bias": (Route.PLAIN,),
    "linear_4bit/nf4/b64/{}/m3-n0-k64/bias": (Route.PLAIN,),
    "linear_4bit/nf4/b64/{}/m3-n4-k0/bias": (Route.PLAIN,),
    "linear_4bit_backward/nf4/b64/{}/m1-n48-k130": _PRODUCTS,
    "linear_4bit_backward/nf4/b64/{}/m5-n33-k257/nested": _PRODUCTS,
    "linear_4bit_backward/fp4/b64/{}/m5-n33-k257": (Route.PLAIN,),
    "linear_4bit_backward/nf4/b64/{}/m0-n16-k64": (Route.PLAIN,),
    "linear_4bit_backward/nf4/b64/{}/m3-n0-k64": (Route.PLAIN,),
    "linear_4bit_backward/nf4/b64/{}/m3-n4-k0": (Route.PLAIN,),
    "linear_4bit_grouped/nf4/b64/{}/uneven-n33-k257/bias/nested": _MATRICES,
    "linear_4bit_grouped/fp4/b64/{}/zeros-between-n33-k257": (Route.PLAIN,),
    "linear_4bit_grouped/nf4/b64/{}/no-rows-n33-k65/bias": (Route.PLAIN,),
    "linear_4bit_grouped/nf4/b64/{}/zeros-between-n0-k64/bias": (Route.PLAIN,),
    "linear_4bit_grouped/nf4/b64/{}/zeros-between-n4-k0/bias": (Route.PLAIN,),
    "linear_4bit_grouped_backward/nf4/b64/{}/uneven-n33-k257/nested": _MATRICES,
    "linear_4bit_grouped_backward/fp4/b64/{}/zeros-between-n33-k257/nested": (Route.PLAIN,),
    "linear_4bit_grouped_backward/nf4/b64/{}/no-rows-n33-k65/nested": (Route.PLAIN,),
    "linear_4bit_grouped_backward/nf4/b64/{}/zeros-between-n0-k64/nested": (Route.PLAIN,),
    "linear_4bit_grouped_backward/nf4/b64/{}/zeros-between-n4-k0/nested": (Route.PLAIN,),
    "int8_vectorwise_quant/int8/{}/random": _PRODUCTS,
    "int8_vectorwise_quant/int8/{}/outliers": _PRODUCTS,
    "int8_vectorwise_quant/int8/{}/empty-r0-c64/outliers": (Route.PLAIN,),
    "int8_vectorwise_quant/int8/{}/empty-r3-c0/outliers": (Route.PLAIN,),
    "int8_vectorwise_dequant/int8/{}/all-codes": _PRODUCTS,
    "int8_vectorwise_dequant/int8/{}/empty-r0-c64": (Route.PLAIN,),
    "int8_vectorwise_dequant/int8/{}/empty-r3-c0": (Route.PLAIN,),
    "int8_mm_dequant/int8/{}/m5-n33/bias": _PRODUCTS,
    "int8_mm_dequant/int8/{}/m0-n16/bias": (Route.PLAIN,),
    "int8_mm_dequant/int8/{}/m3-n0/bias": (Route.PLAIN,),
    "int8_linear/int8/{}/m1-n48-k130/bias": _PRODUCTS,
    "int8_linear/int8/{}/m5-n33-k257/outliers/bias": _PRODUCTS,
    "int8_linear/int8/{}/m0-n16-k64/outliers/bias": (Route.PLAIN,),
    "int8_linear/int8/{}/m3-n0-k64/outliers/bias": (Route.PLAIN,),
    "int8_linear/int8/{}/m3-n4-k0/outliers/bias": (Route.PLAIN,),
    "int8_linear_backward/int8/{}/m1-n48-k130": _PRODUCTS,
    "int8_linear_backward/int8/{}/m5-n33-k257": _PRODUCTS,
    "int8_linear_backward/int8/{}/m0-n16-k64": (Route.PLAIN,),
    "int8_linear_backward/int8/{}/m3-n0-k64": (Route.PLAIN,),
    "int8_linear_backward/int8/{}/m3-n4-k0": (Route.PLAIN,),
    **{
        f"optimizer_step_{bits}bit/{rule}/{{}}/plain": (Route.PLAIN,)
        for rule, known in RULES.items()
        for bits in ((8, 32) if known.signed else (32,))
    },
}
# The same, for one type only.
_ROUTES_OF_BFLOAT16 = {
    f"optimizer_step_{bits}bit/{rule}/{{}}/{rounding}/plain": (Route.PLAIN,)
    for bits in (8, 32)
    for rule in ("adam", "lars")
    for rounding in ("stochastic", "corrected")
}
_ROUTES_OF_INT8 = {
    "int8_linear_matmul/int8/{}/m5-n33-k257": _PRODUCTS,
    "int8_linear_matmul/int8/{}/m0-n16-k64": (Route.PLAIN,),
    "int8_linear_matmul/int8/{}/m3-n0-k64": (Route.PLAIN,),
    "int8_linear_matmul/int8/{}/m3-n4-k0": (Route.PLAIN,),
}

# The arguments of each function of which there are wrong ones.
_STEP = (
    *("rule", "params", "grads", "steps", "lr", "weight-decay", "decoupled", "maximize"),
    *("grad-scale", "rounding", "corrections", "seeds", "hyper"),
)
ERRORS: dict[str, tuple[str, ...]] = {
    "quantize_4bit": ("A", "blocksize", "quant-type", "layout", "out", "absmax"),
    "dequantize_4bit": (
        *("A", "quant-state", "absmax", "blocksize", "quant-type", "out", "dtype", "nested"),
    ),
    "quantize_blockwise": ("A", "code", "blocksize", "layout", "out", "absmax"),
    "dequantize_blockwise": ("A", "quant-state", "absmax", "code", "blocksize", "out", "dtype"),
    "linear_4bit": ("x", "packed", "quant-state", "absmax", "bias", "nested"),
    "linear_4bit_backward": (
        *("grad", "packed", "absmax", "shape", "blocksize", "quant-type", "layout"),
    ),
    "linear_4bit_grouped": ("x", "packed", "quant-state", "absmax", "counts", "bias", "nested"),
    "linear_4bit_grouped_backward": (
        *("grad", "packed", "absmax", "counts", "shape", "blocksize", "quant-type", "layout"),
    ),
    "int8_vectorwise_quant": ("A", "threshold"),
    "int8_vectorwise_dequant": ("codes", "absmax", "dtype"),
    "int8_linear_matmul": ("A", "B", "K"),
    "int8_mm_dequant": ("A", "row-absmax", "col-absmax", "bias", "dtype"),
    "int8_linear": ("x", "weight", "absmax", "bias", "threshold", "K"),
    "int8_linear_backward": ("grad", "weight", "absmax"),
    "optimizer_step_8bit": (*_STEP, "codes", "absmax", "code-maps"),
    "optimizer_step_32bit": (*_STEP, "states"),
}
_OF_CODES = "int8_linear_matmul"  # the only operation without a floating-point tensor
_WRITES_TO_OUT = ("quantize_4bit", "dequantize_4bit", "quantize_blockwise", "dequantize_blockwise")
_MEETS_GRADIENTS = (
    *("quantize_4bit", "quantize_blockwise", "linear_4bit", "linear_4bit_grouped"),
    *("int8_vectorwise_quant", "int8_linear"),
)


def _routed() -> Iterator[Case]:
    """Cases of the contract by other routes."""
    asked = [(pattern, routes, tuple(FORMATS)) for pattern, routes in _ROUTES.items()]
    asked += [(pattern, routes, ("bfloat16",)) for pattern, routes in _ROUTES_OF_BFLOAT16.items()]
    asked += [(pattern, routes, ("int8",)) for pattern, routes in _ROUTES_OF_INT8.items()]
    for pattern, routes, dtypes in asked:
        for dtype in dtypes:
            case = contract_case(pattern.format(dtype))
            for route in routes:
                name = address(case.id).name
                head = case.id.removesuffix(name)
                yield _through(case, route, f"{head}public/{route.name.lower()}/{name}")


def _through(case: Case, route: Route, case_id: str) -> Case:
    def make(draw: Draw) -> Through:
        return Through(case.make(draw), route)

    return replace(case, id=case_id, profile=Profile.CORE, make=make)


def _end_to_end(quant_type: str, dtype: str) -> Iterator[Case]:
    """What takes several operations of one backend."""
    prefix = f"{quant_type}/b64/{dtype}/public"

    def compressed(rows: int, cols: int) -> Case:
        def make(draw: Draw) -> CompressStatistics:
            x = draw.bell(rows, cols) * draw.magnitudes(-6, 2, rows, 1)
            return CompressStatistics(store(x, dtype), quant_type, 64)

        name = f"quantize_4bit/{prefix}/compress-statistics/r{rows}-c{cols}"
        return Case(name, Profile.CORE, Demand("quantize_4bit", dtype, quant_type, 64), make)

    # Groups of 256 scales that begin inside of a row; one scale, which is its own mean.
    yield compressed(201, 135)
    yield compressed(1, 5)

    def gradients(draw: Draw) -> BiasGradient:
        weights = random_weights(draw, 33, 130, quant_type, 64, nested=True)
        x, bias, grad = (store(draw.bell(*shape), dtype) for shape in ((70, 130), (33,), (70, 33)))
        return BiasGradient(x, weights, bias, grad)

    yield Case(
        f"linear_4bit/{prefix}/bias-gradient",
        Profile.CORE,
        Demand("linear_4bit", dtype, quant_type, 64),
        gradients,
    )

    def grouped_gradients(draw: Draw) -> GroupedBiasGradient:
        counts = (0, 2, 0, 31, 1, 0)
        E, T, N, K = len(counts), sum(counts), 33, 130
        experts = Experts(random_weights(draw, E * N, K, quant_type, 64, nested=True), counts)
        x, bias, grad = (store(draw.bell(*shape), dtype) for shape in ((T, K), (E, N), (T, N)))
        return GroupedBiasGradient(x, experts, bias, grad)

    yield Case(
        f"linear_4bit_grouped/{prefix}/bias-gradient",
        Profile.CORE,
        Demand("linear_4bit_grouped", dtype, quant_type, 64),
        grouped_gradients,
    )


def _checks(op: str, dtype: str) -> Iterator[Case]:
    """What is asked beyond results; the type hardly matters, so that CORE asks about one."""
    if op.startswith("optimizer"):
        size = OPTIMIZER_BLOCKSIZE if op.endswith("8bit") else None
        demand = Demand(op, dtype, None, size, "adam", "nearest")
        prefix = f"{op}/adam/{dtype}/public"
    elif op.startswith("int8"):
        demand, prefix = Demand(op, dtype), f"{op}/int8/{dtype}/public"
    elif "4bit" in op:
        demand, prefix = Demand(op, dtype, "nf4", 64), f"{op}/nf4/b64/{dtype}/public"
    else:
        demand = Demand(op, dtype, None, 256)
        prefix = f"{op}/dynamic-signed/b256/{dtype}/public"

    def case(name: str, *, costly: bool = False) -> Case:
        core = dtype in ("float32", "int8") and not costly
        profile = Profile.CORE if core else Profile.FULL
        return Case(f"{prefix}/{name}", profile, demand, lambda _: Check(name, demand))

    for argument in ERRORS[op]:
        yield case(f"errors/{argument}")
    if op in _WRITES_TO_OUT:
        yield case("aliasing")
    if op in _MEETS_GRADIENTS:
        yield case("grad-mode")
    if op == "int8_linear" and dtype != "float32":
        yield replace(case("autocast"), profile=Profile.CORE)
    # Loading torch's tracing takes longer than all other cases of this module.
    yield case("opcheck", costly=True)
    yield case("compile", costly=True)


def _traced_steps() -> Iterator[Case]:
    """Torch's own checks of the optimizer steps with norms, random numbers and corrections."""
    for op, size in (("optimizer_step_8bit", OPTIMIZER_BLOCKSIZE), ("optimizer_step_32bit", None)):
        for rule, rounding in (("lamb", "nearest"), ("adam", "stochastic"), ("lars", "corrected")):
            demand = Demand(op, "bfloat16", None, size, rule, rounding)
            prefix = f"{op}/{rule}/bfloat16/public/{rounding}"
            for name in ("opcheck", "compile"):
                check = Check(name, demand)
                yield Case(f"{prefix}/{name}", Profile.FULL, demand, lambda _, check=check: check)  # type: ignore[misc]


def public_cases() -> Iterator[Case]:
    """All cases of the public functions."""
    yield from _routed()
    for dtype in FORMATS:
        for quant_type in ("nf4", "fp4"):
            yield from _end_to_end(quant_type, dtype)
        yield from public_int8_cases(dtype)
        for op in ERRORS:
            if op != _OF_CODES:
                yield from _checks(op, dtype)
    yield from _checks(_OF_CODES, "int8")
    yield from _traced_steps()
