"""One optimizer step in float64, with states at full precision or in 8 bits.

Every rule is a pure function of a parameter, its gradient and its states; the table is `RULES`.
"""

from kq_conformance.reference.optimizer.adaptive import ademamix_factors
from kq_conformance.reference.optimizer.coded import (
    OPTIMIZER_BLOCKSIZE,
    decode_state,
    optimizer_step_8bit,
)
from kq_conformance.reference.optimizer.hyper import Hyper
from kq_conformance.reference.optimizer.rounding import (
    join_master,
    random_words,
    round_stochastic,
    split_master,
)
from kq_conformance.reference.optimizer.rules import RULES, OptimizerRule, optimizer_step

__all__ = [
    "OPTIMIZER_BLOCKSIZE",
    "RULES",
    "Hyper",
    "OptimizerRule",
    "ademamix_factors",
    "decode_state",
    "join_master",
    "optimizer_step",
    "optimizer_step_8bit",
    "random_words",
    "round_stochastic",
    "split_master",
]
