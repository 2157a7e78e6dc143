"""Derived bounds: for each result of each operation, the set of answers that a backend may give.

No constant here is tuned. Each is a count of roundings times the unit roundoff u of the type in
which they happen (float32: 2**-24), and the module that uses it says which roundings are counted.
"""

from kq_conformance.bounds.acceptance import Bits, Codes, Interval, Judgement, Rule, Worst
from kq_conformance.bounds.codes import (
    Strictness,
    accept_absmax,
    accept_codes,
    accept_codes_of_interval,
)
from kq_conformance.bounds.dequantize import accept_decoded, exact_scales, scale_enclosure
from kq_conformance.bounds.enclosure import Enclosure
from kq_conformance.bounds.int8 import (
    Int8Product,
    Quantized,
    accept_int8_absmax,
    accept_int8_decoded,
    accept_int8_outliers,
    accept_int8_sums,
    int8_weight_forms,
)
from kq_conformance.bounds.linear import (
    GroupedProduct,
    Product,
    Sums,
    WeightForm,
    judge_sums,
    weight_forms,
)
from kq_conformance.bounds.optimizer import (
    Step,
    accept_param,
    accept_state,
    accept_state_absmax,
    enclose_step,
    judge_corrected,
    judge_mean,
    judge_stochastic,
)

__all__ = [
    "Bits",
    "Codes",
    "Enclosure",
    "GroupedProduct",
    "Int8Product",
    "Interval",
    "Judgement",
    "Product",
    "Quantized",
    "Rule",
    "Step",
    "Strictness",
    "Sums",
    "WeightForm",
    "Worst",
    "accept_absmax",
    "accept_codes",
    "accept_codes_of_interval",
    "accept_decoded",
    "accept_int8_absmax",
    "accept_int8_decoded",
    "accept_int8_outliers",
    "accept_int8_sums",
    "accept_param",
    "accept_state",
    "accept_state_absmax",
    "enclose_step",
    "exact_scales",
    "int8_weight_forms",
    "judge_corrected",
    "judge_mean",
    "judge_stochastic",
    "judge_sums",
    "scale_enclosure",
    "weight_forms",
]
