"""The optimizer steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kq_conformance import reference
from kq_conformance.floats import FLOAT32, Array, Float64
from kq_conformance.reference import OPTIMIZER_BLOCKSIZE, RULES, Codebook, Hyper
from kq_conformance.reference_backend.blocks import Blocks
from kq_conformance.reference_backend.memory import bits_of, format_of

__all__ = ["WITH_STATES", "OptimizerSteps"]

WITH_STATES = frozenset(name for name, rule in RULES.items() if rule.signed)


def _hyper(rule: str, options: Mapping[str, Any]) -> Hyper:
    """The hyperparameters among the options of a step.

    Raises:
        TypeError: naming what the rule does not take, or what is missing.
    """
    wanted = {*Hyper().common, *RULES[rule].usual}
    given = set(options) - {"rounding", "corrections", "seeds"}
    if wanted != given:
        raise TypeError(f"rule {rule!r} takes {sorted(wanted)}, got {sorted(given)}")
    return RULES[rule].hyper(**{name: options[name] for name in given})


class OptimizerSteps(Blocks):
    """optimizer_step_8bit and optimizer_step_32bit, and their parts."""

    def check_rule(self, op: str, rule: str) -> None:
        """Refuse what is not declared.

        Raises:
            NotImplementedError: naming the argument.
        """
        known = WITH_STATES if op == "optimizer_step_8bit" else frozenset(RULES)
        if rule not in known:
            raise NotImplementedError(f"rule must be one of {sorted(known)}, got {rule!r}")

    def check_rounding(self, rounding: str, params: Sequence[Any]) -> None:
        """Refuse what is not declared.

        Raises:
            NotImplementedError: naming the argument.
        """
        if rounding not in ("nearest", "stochastic", "corrected"):
            raise NotImplementedError(f"rounding must be nearest or ..., got {rounding!r}")
        if rounding != "nearest" and any(format_of(each) != "bfloat16" for each in params):
            raise NotImplementedError(f"rounding {rounding!r} is of bfloat16 parameters only")

    def update(
        self,
        rule: str,
        p: Float64,
        g: Float64,
        states: tuple[Float64, ...],
        step: int,
        hyper: Hyper,
    ) -> tuple[Float64, tuple[Float64, ...]]:
        """One step of one tensor [n]; returns the new p and states."""
        return reference.optimizer_step(rule, p, g, states, step, hyper)

    def random_words(self, seed: int, step: int, count: int) -> Array:
        """The random numbers of the first elements of a parameter: uint32 [count]."""
        return reference.random_words(seed, step, np.arange(count))

    def round_stochastic(self, x: Float64, words: Array) -> Float64:
        """Round float32 numbers to bfloat16 with a random number each."""
        return reference.round_stochastic(x, words)

    def join_master(self, p: Array, correction: Array) -> Float64:
        """The master weights of bfloat16 bits and corrections."""
        return reference.join_master(p, correction)

    def split_master(self, x: Float64) -> tuple[Array, Array]:
        """Bfloat16 bits and corrections of float32 numbers."""
        return reference.split_master(x)

    def load_state(self, codes: Array, absmax: Float64, book: Codebook) -> Float64:
        """Decode a state [n] from codes [n] and absmax [ceil(n/256)]."""
        scale = self.spread(absmax.reshape(1, -1), codes.size, OPTIMIZER_BLOCKSIZE)
        return self.decode(codes, scale.reshape(-1), book)

    def code_state(self, state: Float64, book: Codebook) -> tuple[Array, Float64]:
        """Encode a state [n]: codes [n] and absmax [ceil(n/256)]."""
        row = FLOAT32.round(state).reshape(1, -1)
        absmax = self.absmax(row, OPTIMIZER_BLOCKSIZE)
        codes = self.encode(row, self.spread(absmax, row.size, OPTIMIZER_BLOCKSIZE), book)
        return codes.reshape(-1), absmax.reshape(-1)

    def optimizer_step_32bit(
        self,
        rule: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        states: Sequence[Any],
        steps: Sequence[int],
        **options: Any,
    ) -> None:
        """Step each tensor of the list; states: the first of all parameters, then the second."""
        self.check_rule("optimizer_step_32bit", rule)
        self.check_rounding(options["rounding"], params)
        for i, step in enumerate(steps):
            own = states[i :: len(params)]
            before = tuple(self.load(each).reshape(-1) for each in own)
            after = self.step_one(rule, i, params[i], grads[i], before, step, options)
            for tensor, state in zip(own, after, strict=True):
                self.store(tensor, state.reshape(tuple(tensor.shape)))

    def optimizer_step_8bit(
        self,
        rule: str,
        params: Sequence[Any],
        grads: Sequence[Any],
        codes: Sequence[Any],
        absmax: Sequence[Any],
        code_maps: Sequence[Any],
        steps: Sequence[int],
        **options: Any,
    ) -> None:
        """Step each tensor of the list: decode, update, encode with new scales."""
        self.check_rule("optimizer_step_8bit", rule)
        self.check_rounding(options["rounding"], params)
        books = [self.code_map(self.load(each)) for each in code_maps]
        for i, step in enumerate(steps):
            own = list(zip(codes[i :: len(params)], absmax[i :: len(params)], books, strict=True))
            before = tuple(
                self.load_state(self.codes(coded).reshape(-1), self.load(scales), book)
                for coded, scales, book in own
            )
            after = self.step_one(rule, i, params[i], grads[i], before, step, options)
            for (coded, scales, book), state in zip(own, after, strict=True):
                new_codes, new_scales = self.code_state(state, book)
                self.write(coded, new_codes.reshape(tuple(coded.shape)))
                self.store(scales, new_scales)

    def step_one(
        self,
        rule: str,
        i: int,
        param: Any,
        grad: Any,
        states: tuple[Float64, ...],
        step: int,
        options: Mapping[str, Any],
    ) -> tuple[Float64, ...]:
        """Step parameter i of a list, and return its new states."""
        hyper, rounding, shape = _hyper(rule, options), options["rounding"], tuple(param.shape)
        correction = options["corrections"][i] if rounding == "corrected" else None
        if correction is None:
            p = self.load(param)
        else:
            p = self.join_master(bits_of(param), self.codes(correction))
        g = self.load(grad).reshape(-1)
        new, states = self.update(rule, p.reshape(-1), g, states, step, hyper)
        if rounding == "nearest":
            self.store(param, new.reshape(shape))
        elif correction is not None:
            bits, rest = self.split_master(FLOAT32.round(new))
            self.write(param, bits.reshape(shape))
            self.write(correction, rest.reshape(shape))
        else:
            words = self.random_words(options["seeds"][i], step, new.size)
            rounded = self.round_stochastic(FLOAT32.round(new), words)
            self.store(param, rounded.reshape(shape))
        return states
