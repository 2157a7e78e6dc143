"""The operations of `Subject`, as calls of the public functions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import kq_functional as kq
from kq_conformance.floats import Stored
from kq_conformance.public.call import Call
from kq_conformance.public.gradients import gradients_of
from kq_conformance.public.routed_int8 import RoutedInt8
from kq_conformance.public.states import check_state, state_4bit, state_8bit
from kq_conformance.public.tensors import from_tensor, to_tensor
from kq_conformance.reference import Hyper, count_blocks
from kq_conformance.subject import Outputs, Rounding, Route, StoredScales

__all__ = ["RoutedOperations"]


class RoutedOperations(RoutedInt8):
    """Each operation of the contract through its public function, by one route.

    OUT changes nothing where a function has no `out`; the optimizer steps know the plain route
    only.

    Args:
        backend_name: what `kq_functional.use_backend` takes.
        device: torch device type of all tensors.
        route: how the tensors reach the functions.
    """

    def __init__(self, backend_name: str, device: str, route: Route) -> None:
        self._backend_name = backend_name
        self._device = device
        self._route = route

    def _new_call(self) -> Call:
        return Call(self._backend_name, self._device, self._route)

    def quantize_4bit(self, x: Stored, *, quant_type: str, blocksize: int) -> Outputs:
        """See `Subject.quantize_4bit`."""
        (rows, cols), call = x.bits.shape, self._new_call()
        A = call.take_routed("A", x)
        packed_shape, absmax_shape = (rows, -(-cols // 2)), (rows, count_blocks(cols, blocksize))
        given = call.given(packed=(packed_shape, "uint8"), absmax=(absmax_shape, "float32"))
        packed, state = call.run(
            kq.quantize_4bit,
            A,
            out=given.get("packed"),
            absmax=given.get("absmax"),
            blocksize=blocksize,
            quant_type=quant_type,
        )
        check_state(state, A, quant_type, blocksize)
        return call.result("packed", packed, packed_shape, "uint8", given) | call.result(
            "absmax", state.absmax, absmax_shape, "float32", given
        )

    def dequantize_4bit(
        self,
        packed: Stored,
        scales: StoredScales,
        cols: int,
        dtype: str,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """See `Subject.dequantize_4bit`; the route is that of the codes.

        With OUT, plain scales are given as `absmax` instead of in a state.
        """
        call, shape = self._new_call(), (packed.bits.shape[0], cols)
        A = call.take_routed("A", packed)
        state = state_4bit(
            call, scales, call.shape(*shape), dtype, quant_type, blocksize, batch=True
        )
        given = call.given(out=(shape, dtype))
        decoding: dict[str, Any] = {"quant_state": state}
        if given and not state.nested:
            decoding = {"absmax": state.absmax, "blocksize": blocksize, "quant_type": quant_type}
        out = call.run(kq.dequantize_4bit, A, **decoding, **given)
        return call.result("out", out, shape, dtype, given)

    def quantize_blockwise(self, x: Stored, code: Stored, *, blocksize: int) -> Outputs:
        """See `Subject.quantize_blockwise`."""
        shape, call = x.bits.shape, self._new_call()
        A = call.take_routed("A", x)
        absmax_shape = (shape[0], count_blocks(shape[1], blocksize))
        given = call.given(codes=(shape, "uint8"), absmax=(absmax_shape, "float32"))
        codes, state = call.run(
            kq.quantize_blockwise,
            A,
            code=call.take("code", code),
            out=given.get("codes"),
            absmax=given.get("absmax"),
            blocksize=blocksize,
        )
        check_state(state, A, None, blocksize)
        return call.result("codes", codes, shape, "uint8", given) | call.result(
            "absmax", state.absmax, absmax_shape, "float32", given
        )

    def dequantize_blockwise(
        self, codes: Stored, code: Stored, absmax: Stored, dtype: str, *, blocksize: int
    ) -> Outputs:
        """See `Subject.dequantize_blockwise`; the route is that of the codes.

        With OUT, scales and code map are given as such instead of in a state.
        """
        call, shape = self._new_call(), codes.bits.shape
        A = call.take_routed("A", codes)
        scales, table = call.take_batch("absmax", absmax), call.take("code", code)
        given = call.given(out=(shape, dtype))
        if given:
            decoding: dict[str, Any] = {"absmax": scales, "code": table, "blocksize": blocksize}
        else:
            decoding = {"quant_state": state_8bit(scales, table, A.shape, dtype, blocksize)}
        out = call.run(kq.dequantize_blockwise, A, **decoding, **given)
        return call.result("out", out, shape, dtype, given)

    def linear_4bit(
        self,
        x: Stored,
        packed: Stored,
        scales: StoredScales,
        bias: Stored | None,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """See `Subject.linear_4bit`."""
        call, (m, k), n = self._new_call(), x.bits.shape, packed.bits.shape[0]
        out = call.run(
            kq.linear_4bit,
            call.take_routed("x", x),
            call.take("packed", packed),
            state_4bit(call, scales, (n, k), x.dtype, quant_type, blocksize),
            None if bias is None else call.take("bias", bias),
        )
        return call.result("out", out, (m, n), x.dtype)

    def linear_4bit_backward(
        self,
        grad: Stored,
        packed: Stored,
        scales: StoredScales,
        cols: int,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """See `Subject.linear_4bit_backward`: the gradient of x by autograd."""
        call, (m, n) = self._new_call(), grad.bits.shape
        upstream = call.take_routed("grad", grad)
        x = upstream.new_zeros(*upstream.shape[:-1], cols).requires_grad_()
        codes = call.take("packed", packed)
        state = state_4bit(call, scales, (n, cols), grad.dtype, quant_type, blocksize)
        # The product is not what is asked here, and may be what the backend does not have.
        with kq.use_backend("torch"), torch.enable_grad():
            y = kq.linear_4bit(x, codes, state)
        (out,) = call.run(gradients_of, y, [x], upstream)
        return call.result("out", out, (m, cols), grad.dtype)

    def linear_4bit_grouped(
        self,
        x: Stored,
        packed: Stored,
        scales: StoredScales,
        bias: Stored | None,
        counts: Sequence[int],
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """See `Subject.linear_4bit_grouped`."""
        call, (rows, k) = self._new_call(), x.bits.shape
        codes, (experts, n) = _of_experts(packed, counts)
        out = call.run(
            kq.linear_4bit_grouped,
            call.take_routed("x", x),
            call.take("packed", codes),
            state_4bit(call, scales, (experts, n, k), x.dtype, quant_type, blocksize),
            list(counts),
            None if bias is None else call.take("bias", bias),
        )
        return call.result("out", out, (rows, n), x.dtype)

    def linear_4bit_grouped_backward(
        self,
        grad: Stored,
        packed: Stored,
        scales: StoredScales,
        counts: Sequence[int],
        cols: int,
        *,
        quant_type: str,
        blocksize: int,
    ) -> Outputs:
        """See `Subject.linear_4bit_grouped_backward`: the gradient of x by autograd."""
        call, (rows, n) = self._new_call(), grad.bits.shape
        upstream = call.take_routed("grad", grad)
        x = upstream.new_zeros(rows, cols).requires_grad_()
        stored, (experts, _) = _of_experts(packed, counts)
        codes = call.take("packed", stored)
        state = state_4bit(call, scales, (experts, n, cols), grad.dtype, quant_type, blocksize)
        # As above: the product is not what is asked here.
        with kq.use_backend("torch"), torch.enable_grad():
            y = kq.linear_4bit_grouped(x, codes, state, torch.tensor(counts))
        (out,) = call.run(gradients_of, y, [x], upstream)
        return call.result("out", out, (rows, cols), grad.dtype)

    def optimizer_step_8bit(
        self,
        rule: str,
        params: Sequence[Stored],
        grads: Sequence[Stored],
        codes: Sequence[Stored],
        absmax: Sequence[Stored],
        code_maps: Sequence[Stored],
        steps: Sequence[int],
        hyper: Hyper,
        *,
        rounding: Rounding,
    ) -> Outputs:
        """See `Subject.optimizer_step_8bit`."""
        call = self._new_call()
        updated = self._updated(
            params=params, codes=codes, absmax=absmax, corrections=rounding.corrections
        )
        call.run(
            kq.optimizer_step_8bit,
            rule,
            grads=[call.take(f"grads[{i}]", each) for i, each in enumerate(grads)],
            code_maps=[call.take(f"code_maps[{i}]", each) for i, each in enumerate(code_maps)],
            steps=list(steps),
            rounding=rounding.name,
            seeds=list(rounding.seeds),
            **updated,
            **hyper.common,
            **hyper.own,
        )
        return _listed(updated)

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Stored],
        grads: Sequence[Stored],
        states: Sequence[Stored],
        steps: Sequence[int],
        hyper: Hyper,
        *,
        rounding: Rounding,
    ) -> Outputs:
        """See `Subject.optimizer_step_32bit`."""
        call = self._new_call()
        updated = self._updated(params=params, states=states, corrections=rounding.corrections)
        call.run(
            kq.optimizer_step_32bit,
            rule,
            grads=[call.take(f"grads[{i}]", each) for i, each in enumerate(grads)],
            steps=list(steps),
            rounding=rounding.name,
            seeds=list(rounding.seeds),
            **updated,
            **hyper.common,
            **hyper.own,
        )
        return _listed(updated)

    def _updated(self, **lists: Sequence[Stored]) -> dict[str, list[Tensor]]:
        return {
            name: [to_tensor(stored, self._device) for stored in each]
            for name, each in lists.items()
        }


def _of_experts(packed: Stored, counts: Sequence[int]) -> tuple[Stored, tuple[int, int]]:
    """Codes [E * N, C] as [E, N, C], and (E, N)."""
    (rows, cols), experts = packed.bits.shape, len(counts)
    shape = experts, rows // experts
    return Stored(packed.bits.reshape(*shape, cols), packed.dtype), shape


def _listed(updated: dict[str, list[Tensor]]) -> Outputs:
    return {
        f"{name}[{i}]": from_tensor(tensor)
        for name, each in updated.items()
        for i, tensor in enumerate(each)
    }
