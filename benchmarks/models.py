"""A language model as work: decoding a token, reading a prompt, a step of fine-tuning.

kq holds NF4 codes with double quantization, the dense models hold what these decode to, and
bitsandbytes holds its own codes of the same format.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, DynamicCache
from transformers.utils import logging

import kq_kernels
import kq_nn
import kq_optim
from benchmarks.data import dtype_name
from benchmarks.harness import Contender, Verdict, nothing
from benchmarks.plan import Plan
from demo import assets
from interop.decoded import with_decoded_weights
from interop.paths import CACHE
from kq_hf.text import token_rows

# Any, as in peers.bnb.
bitsandbytes: Any = import_module("bitsandbytes")

PROMPT = 512
BATCH, WINDOW, RANK = 4, 256, 16
_LOGIT = 2.0**5  # size of a logit of this model, at most
_ADDITIONS = 60  # to the residual stream, two in each of 30 layers
_UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


class Member(NamedTuple):
    """A model that takes part.

    Attributes:
        family: as in `Contender`.
        model: causal language model.
        optimizer: makes the optimizer of its adapters.
        dtype: what it computes in.
        prepare: as in `Contender`.
        judged: whether it holds our codes. bitsandbytes quantizes the model itself, and on CPU
            not exactly: its loss is another one.
    """

    family: str
    model: Any
    optimizer: Callable[..., torch.optim.Optimizer]
    dtype: torch.dtype
    prepare: Callable[[], object] = nothing
    judged: bool = True


@dataclass(frozen=True)
class Language:
    """SmolLM2-135M, and text for it.

    Attributes:
        members: those who take part.
        references: the dense models among them, by dtype, that hold the decoded weights.
        text: token ids [BATCH, PROMPT].
        losses: of the references, as far as they are known.
    """

    members: list[Member]
    references: dict[torch.dtype, Any]
    text: Tensor
    losses: dict[torch.dtype, float] = field(default_factory=dict)

    @classmethod
    def make(cls, dtype: torch.dtype, adapted: bool, plan: Plan) -> Language:
        """Loads the models.

        Args:
            dtype: what the quantized models compute in; the dense ones do in float32 and bfloat16.
            adapted: whether there are adapters to train.
            plan: the run.
        """
        logging.disable_progress_bar()  # they would break ours
        folder = assets.smollm2(CACHE)
        quantized = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        kq_nn.quantize_model(quantized, skip=["lm_head"])
        dense = {each: with_decoded_weights(quantized, each) for each in _UNIT}
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        peer = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, quantization_config=config
        ).eval()
        if adapted:
            quantized, peer = _adapted(quantized), _adapted(peer)
            dense = {each: _adapted(model) for each, model in dense.items()}
        ours = [
            Member(
                f"kq {isa}",
                quantized,
                kq_optim.AdamW8bit,
                dtype,
                partial(kq_kernels.set_isa, isa),
            )
            for isa in plan.isas
        ]
        torches = [
            Member(f"torch {dtype_name(each)}", model, torch.optim.AdamW, each)
            for each, model in dense.items()
        ]
        members = [
            *ours,
            *torches,
            Member("bitsandbytes", peer, bitsandbytes.optim.AdamW8bit, dtype, judged=False),
        ]
        return cls(members, dense, _text(folder)[:BATCH])

    def decode(self) -> list[Contender]:
        """One token after a prompt, from the cache of keys and values."""
        return [self._decode(each) for each in self.members]

    def _decode(self, member: Member) -> Contender:
        prompt, token = self.text[:1, :64], self.text[:1, 64:65]
        with torch.no_grad():
            past = member.model(prompt, past_key_values=DynamicCache()).past_key_values

        def run() -> None:
            member.model(token, past_key_values=past)
            past.crop(-token.shape[1])

        return self._contender(member, run)

    def prefill(self) -> list[Contender]:
        """A prompt of 512 tokens, and the logits of the next one."""
        return [
            self._contender(each, partial(each.model, self.text[:1], logits_to_keep=1))
            for each in self.members
        ]

    def train(self) -> list[Contender]:
        """A step of QLoRA: all linear layers, rank 16."""
        return [self._train(each) for each in self.members]

    def _train(self, member: Member) -> Contender:
        model, batch = member.model, self.text[:, :WINDOW]
        parameters = [each for each in model.parameters() if each.requires_grad]
        optimizer = member.optimizer(parameters, lr=1e-4)

        def run() -> None:
            model.train()
            model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return self._contender(member, run)

    def _contender(self, member: Member, run: Callable[[], object]) -> Contender:
        check = partial(self._judge, member)
        return Contender(member.family, run, check, 0, prepare=member.prepare)

    def _judge(self, member: Member) -> Verdict:
        """The loss is that of the dense model of the same dtype, within its rounding.

        The bound is that of interop/test_perplexity.py: the mean of n losses whose roundings are
        independent, each of a logit's size and relative u, amplified by the depth.
        """
        ids = self.text[:1]
        if member.dtype not in self.losses:
            self.losses[member.dtype] = _loss(self.references[member.dtype], ids)
        loss, expected = _loss(member.model, ids), self.losses[member.dtype]
        if not member.judged:
            return Verdict(True, f"loss {loss:.5f}, of our codes {expected:.5f}, not judged")
        unit = _UNIT[member.dtype]
        bound = _LOGIT * math.sqrt(_ADDITIONS) * unit / math.sqrt(ids.numel() - 1)
        found = f"loss {loss:.5f}, of the decoded weights {expected:.5f}, bound {bound:.2g}"
        return Verdict(abs(loss - expected) <= bound, found)


def _adapted(model: Any) -> PeftModel:
    """With adapters to train, and everything else frozen."""
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear")
    return get_peft_model(model.requires_grad_(False), config)


@cache
def _text(folder: Path) -> Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = assets.text(assets.wiki_leads(CACHE), assets.EVALUATION_LEADS)
    return token_rows(tokenizer, text, PROMPT)


def _loss(model: Any, ids: Tensor) -> float:
    """Mean loss; adapters, if there are any, are left out."""
    model.eval()
    base = model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()
    with base, torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
