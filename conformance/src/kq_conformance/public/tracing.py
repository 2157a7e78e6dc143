"""The registered ops under torch's own checks, and the public functions under torch.compile."""

from typing import Any

import torch
from torch import Tensor

import kq_functional as kq
from kq_conformance.public.samples import Invocation, Sample, invocations, tensors_in
from kq_conformance.public.tensors import bytes_of
from kq_conformance.reference import RULES
from kq_conformance.subject import ContractBreachError

__all__ = ["compiles", "opcheck", "registered"]

_Registered = list[tuple[Any, dict[str, Any]]]


def registered(sample: Sample) -> _Registered:
    """The registered ops behind a public function, each with valid arguments by name."""
    forms = {name: form.arguments for name, form in invocations(sample).items()}
    packet = getattr(torch.ops.kq, sample.op)
    plain = forms["plain"]
    if sample.op.startswith("quantize"):
        codes = "packed" if "4bit" in sample.op else "codes"
        results = {codes: forms["out"]["out"], "absmax": forms["out"]["absmax"]}
        found = [(packet.default, plain), (packet.out, plain | results)]
        # Double quantization takes the mean of the scales.
        mean = (torch.ops.kq.cascade_mean.default, {"x": results["absmax"]})
        return [*found, mean] if sample.op == "quantize_4bit" else found
    if sample.op == "dequantize_4bit":
        arguments, nested = (_weight(forms[name]) for name in ("plain", "nested"))
        dtype = {"dtype": getattr(torch, sample.dtype)}
        return [
            (packet.default, arguments | dtype),
            (packet.default, nested | dtype),
            (packet.out, arguments | {"out": forms["parts"]["out"]}),
        ]
    if sample.op == "dequantize_blockwise":
        parts = dict(forms["parts"])
        out, codes = parts.pop("out"), parts.pop("A")
        arguments = {"codes": codes, **parts, "layout": "row"}
        return [
            (packet.default, arguments | {"dtype": out.dtype}),
            (packet.out, arguments | {"out": out}),
        ]
    if sample.op in ("linear_4bit", "linear_4bit_grouped"):
        found = [(packet.inference, _weight(plain))]
        if "counts" in plain:
            # The gradient of a bias adds up the rows of each expert.
            counts = forms["counted"]["counts"]
            found.append((torch.ops.kq.grouped_sum.default, {"x": plain["x"], "counts": counts}))
        return found + [
            (packet.default, _weight(forms[form]) | _leaves(sample, forms[form]))
            for form in ("plain", "nested")
        ]
    if sample.op == "int8_linear":
        x = plain["x"]
        # The gradient of a weight adds up the products of columns with outliers.
        outliers = x.abs().amax(0) >= forms["outliers"]["threshold"]
        columns = {"grad": x[:, :6], "x": x, "outliers": outliers}
        training = [forms[form] | _leaves(sample, forms[form]) for form in ("plain", "outliers")]
        return [
            (packet.inference, forms["outliers"]),
            *((packet.default, arguments) for arguments in training),
            (torch.ops.kq.int8_outlier_gradient.default, columns),
        ]
    if sample.op == "int8_vectorwise_quant":
        by_column = torch.ops.kq.int8_columnwise_quant.default
        return [(op, given) for op in (packet.default, by_column) for given in forms.values()]
    if sample.op.startswith("optimizer"):
        return [(packet.default, _step(plain))]
    return [(packet.default, plain)]


def _leaves(sample: Sample, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """The input and the bias of a product; they ask for gradients that the backend has."""
    backward = kq.explain(
        f"{sample.op}_backward",
        device=sample.device,
        dtype=getattr(torch, sample.dtype),
        quant_type=sample.quant_type or "",
        blocksize=sample.blocksize,
    )
    asked = backward.chosen is not None
    return {name: arguments[name].clone().requires_grad_(asked) for name in ("x", "bias")}


def _step(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an op from those of its public function: the rule's numbers as a list."""
    rest = dict(arguments)
    hyper = [rest.pop(name) for name in RULES[rest["rule"]].usual]
    return rest | {"hyper": hyper}


def _weight(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an op from those of its public function: the state in its parts."""
    rest = dict(arguments)
    state = rest.pop("quant_state")
    if "A" in rest:
        rest["packed"] = rest.pop("A")
    if "counts" in rest:
        rest["counts"] = torch.as_tensor(rest["counts"])
    return rest | {
        "absmax": state.absmax,
        "shape": list(state.shape),
        "blocksize": state.blocksize,
        "quant_type": state.quant_type,
        "layout": state.layout,
        **(
            {}
            if not state.nested
            else {
                "nested_absmax": state.state2.absmax,
                "nested_code": state.state2.code,
                "offset": state.offset,
            }
        ),
    }


def opcheck(sample: Sample, argument: str) -> None:
    """All checks of torch.library.opcheck on the ops of a public function.

    Raises:
        ContractBreachError: naming the op and the check, with the first line of its message.
    """
    del argument
    for op, arguments in registered(sample):
        for check, outcome in torch.library.opcheck(
            op, (), arguments, raise_exception=False
        ).items():
            if outcome != "SUCCESS":
                raise ContractBreachError(f"{op}: {check}: {str(outcome).partition(chr(10))[0]}")


# What returns so many indices as there are is no graph of tensors of known sizes.
_OF_ANY_SIZE = {("int8_vectorwise_quant", "outliers")}


def _results(call: Invocation) -> dict[str, Tensor]:
    """Everything that a call returns and everything that it may have written."""
    return tensors_in(call.run(), "result") | tensors_in(call.arguments, "")


def compiles(sample: Sample, argument: str) -> None:
    """Each form of the call gives the same bits when it is traced into one graph.

    Raises:
        ContractBreachError: naming the form and the tensor.
    """
    del argument
    torch._dynamo.reset()
    traced = invocations(sample)  # tensors of its own: a call may write to its arguments
    for name, eager in invocations(sample).items():
        if (sample.op, name) in _OF_ANY_SIZE:
            continue
        form = traced[name]
        compiled = torch.compile(form.function, fullgraph=True, backend="aot_eager")
        found = _results(Invocation(compiled, form.arguments))
        for part, expected in _results(eager).items():
            if not (bytes_of(found[part]) == bytes_of(expected)).all():
                raise ContractBreachError(f"{part} differs when {name!r} is compiled")
