"""What is asked of the public functions beyond their results."""

import re
from collections.abc import Callable

import torch

from kq_conformance.floats import Array
from kq_conformance.public.errors import WRONG
from kq_conformance.public.samples import Invocation, Sample, invocations, tensors_in
from kq_conformance.public.tensors import bytes_of
from kq_conformance.public.tracing import compiles, opcheck
from kq_conformance.subject import ContractBreachError

__all__ = ["CHECKS"]

# The results that may lie in the memory of another tensor of the same call.
_PAIRS = {
    "quantize_4bit": ("out", (("out", "A"), ("absmax", "A"), ("absmax", "out"))),
    "quantize_blockwise": (
        "out",
        (("out", "A"), ("absmax", "A"), ("absmax", "out"), ("out", "code"), ("absmax", "code")),
    ),
    "dequantize_4bit": ("parts", (("out", "A"), ("out", "absmax"))),
    "dequantize_blockwise": ("parts", (("out", "A"), ("out", "absmax"), ("out", "code"))),
}
_ALIGNMENT = 8  # bytes; a multiple of the size of every element


def _contents(call: Invocation) -> dict[str, Array]:
    """The bytes of all tensors of a call that have any."""
    tensors = tensors_in(call.arguments, "")
    return {name: bytes_of(each) for name, each in tensors.items() if not each.is_meta}


def _refusal(
    call: Invocation, names: tuple[str, ...], accepted: tuple[type[Exception], ...]
) -> str:
    """Make a wrong call; say what is wrong with how it was refused, or nothing."""
    before = _contents(call)
    try:
        call.run()
    except accepted as error:
        if not any(re.search(rf"\b{name}\b", str(error)) for name in names):
            return f"the message does not name it: {_first_line(error)}"
    except Exception as error:
        expected = " or ".join(each.__name__ for each in accepted)
        return f"{type(error).__name__} instead of {expected}: {_first_line(error)}"
    else:
        return "accepted"
    after = _contents(call)
    changed = [name for name in before if not (before[name] == after[name]).all()]
    return f"refused after {', '.join(changed)} had been changed" if changed else ""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _errors(sample: Sample, argument: str) -> None:
    """Wrong arguments raise TypeError or ValueError that names them, and change nothing."""
    forms = invocations(sample)
    for form in forms.values():
        form.run()
    rows = WRONG[sample.op](forms)[argument]
    failures = [
        f"{row.label}: {failure}"
        for row in rows
        if (failure := _refusal(row.call, row.names, (TypeError, ValueError)))
    ]
    _raise(failures, len(rows))


def _raise(failures: list[str], asked: int) -> None:
    if failures:
        raise ContractBreachError(f"{len(failures)} of {asked} wrong: {'; '.join(failures)}")


def _together(call: Invocation, result: str, other: str, start: int) -> Invocation:
    """The same call with a result in the memory of another argument, from a byte of it on."""
    first, second = call.arguments[other], call.arguments[result]
    size = max(first.nbytes, start + second.nbytes)
    memory = torch.zeros(size, dtype=torch.uint8, device=first.device)
    within, over = (
        memory[at : at + each.nbytes].view(each.dtype).view(each.shape)
        for each, at in ((first, 0), (second, start))
    )
    within.copy_(first)
    return call.having(**{other: within, result: over})


def _aliasing(sample: Sample, argument: str) -> None:
    """A result in the memory of an argument raises ValueError; one right behind it is written."""
    del argument
    form, pairs = _PAIRS[sample.op]
    call = invocations(sample)[form]
    failures = []
    for result, other in pairs:
        size = call.arguments[other].nbytes
        for start in (0, (size - 1) // _ALIGNMENT * _ALIGNMENT):
            wrong = _together(call, result, other, start)
            if failure := _refusal(wrong, (result,), (ValueError,)):
                failures.append(f"{result} at byte {start} of {other}: {failure}")
        _together(call, result, other, -(-size // _ALIGNMENT) * _ALIGNMENT).run()
    _raise(failures, 2 * len(pairs))


def _grad_mode(sample: Sample, argument: str) -> None:
    """Codes and scales have no gradient; a product has one where it is asked for."""
    del argument
    is_product = "linear" in sample.op
    (_grad_mode_of_product if is_product else _grad_mode_of_codes)(sample)


def _grad_mode_of_codes(sample: Sample) -> None:
    failures = []
    calls = invocations(sample)
    for form, call in calls.items():
        leaf = call.arguments["A"].clone().requires_grad_()
        for kind, A in (("a leaf", leaf), ("a result", leaf * 1)):
            results = tensors_in(call.having(A=A).run(), "result")
            failures += [
                f"{name} requires a gradient when A is {kind} that does ({form})"
                for name, each in results.items()
                if each.requires_grad
            ]
    _raise(failures, 2 * len(calls))


def _grad_mode_of_product(sample: Sample) -> None:
    call = invocations(sample)["plain"]
    modes = {"grad": torch.enable_grad, "no grad": torch.no_grad, "inference": torch.inference_mode}
    failures = []
    for mode, context in modes.items():
        for wanted in ((), ("x",), ("bias",), ("x", "bias")):
            leaves = {name: call.arguments[name].clone().requires_grad_() for name in wanted}
            with context():
                product = call.having(**leaves).run()
            expected = bool(wanted) and mode == "grad"
            if product.requires_grad is not expected:
                failures.append(
                    f"in mode {mode!r}, with gradients asked of {wanted}, the product "
                    f"{'requires none' if expected else 'requires one'}"
                )
    _raise(failures, 4 * len(modes))


def _autocast(sample: Sample, argument: str) -> None:
    """Under autocast a float32 product is that of its type, to the bit."""
    del argument
    call = invocations(sample)["outliers"]
    wide = call.having(**{name: call.arguments[name].float() for name in ("x", "bias")})
    expected = call.run()
    with torch.autocast(sample.device, dtype=expected.dtype):
        product = wide.run()
    if product.dtype is not expected.dtype:
        raise ContractBreachError(f"autocast to {expected.dtype} gives {product.dtype}")
    if not (bytes_of(product) == bytes_of(expected)).all():
        raise ContractBreachError("the product under autocast is not that of its type")


CHECKS: dict[str, Callable[[Sample, str], None]] = {
    "errors": _errors,
    "aliasing": _aliasing,
    "grad-mode": _grad_mode,
    "autocast": _autocast,
    "opcheck": opcheck,
    "compile": compiles,
}
"""By name; the second argument is the argument that "errors" is about."""
