"""The cases of the backend contract, by id: other cases ask the same in another way."""

from functools import cache

from kq_conformance.cases.case import Case
from kq_conformance.cases.dequantizers import dequantizer_cases
from kq_conformance.cases.grouped import grouped_cases
from kq_conformance.cases.int8_linears import int8_linear_cases
from kq_conformance.cases.int8_products import int8_product_cases
from kq_conformance.cases.int8_quantizers import int8_quantizer_cases
from kq_conformance.cases.linears import linear_cases
from kq_conformance.cases.optimizers import optimizer_cases
from kq_conformance.cases.quantizers import quantizer_cases

__all__ = ["contract_case"]


@cache
def _all() -> dict[str, Case]:
    sources = (
        *(quantizer_cases, dequantizer_cases, linear_cases, grouped_cases),
        *(int8_quantizer_cases, int8_product_cases, int8_linear_cases, optimizer_cases),
    )
    return {case.id: case for source in sources for case in source()}


def contract_case(case_id: str) -> Case:
    """The case of an id that is known to exist."""
    return _all()[case_id]
