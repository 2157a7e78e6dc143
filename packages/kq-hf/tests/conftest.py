"""Small models made on the spot: no download, and every test in a fraction of a second."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs", "away")
TEXT = " ".join(WORDS[(i * i + i // 3) % len(WORDS)] for i in range(3000))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random numbers in every test."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 300 entries, trained on TEXT."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<eos>")


def llama_config(**changes: object) -> LlamaConfig:
    """Hidden size 64, 2 layers, 14 linear layers besides the head."""
    options = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,  # no multiple of the block size
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": 0,
        "bos_token_id": None,
        "pad_token_id": 0,
        "dtype": "float32",
    }
    return LlamaConfig(**{**options, **changes})


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., LlamaForCausalLM]:
    """Makes a Llama with random weights, large enough to tell logits apart."""

    def make(**changes: object) -> LlamaForCausalLM:
        torch.manual_seed(1)
        model = LlamaForCausalLM(llama_config(**changes))
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.1)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def llama(
    tmp_path_factory: pytest.TempPathFactory,
    make_llama: Callable[..., LlamaForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
) -> Path:
    """Folder of a dense Llama with an untied head, float32, with its tokenizer."""
    return _saved(tmp_path_factory.mktemp("llama"), make_llama(), tokenizer)


@pytest.fixture(scope="session")
def tied_llama(
    tmp_path_factory: pytest.TempPathFactory,
    make_llama: Callable[..., LlamaForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
) -> Path:
    """The same with a head that is tied to the embedding."""
    model = make_llama(tie_word_embeddings=True)
    return _saved(tmp_path_factory.mktemp("tied"), model, tokenizer)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a dense BERT encoder, float32."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=300,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
    )
    return _saved(tmp_path_factory.mktemp("bert"), BertModel(config))


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    """Folder of the Llama in NF4 with double quantization."""
    from kq_hf import KqConfig, quantize_checkpoint

    folder = tmp_path_factory.mktemp("quantized") / "nf4"
    quantize_checkpoint(llama, folder, KqConfig())
    return folder


@pytest.fixture(scope="session")
def text() -> str:
    """A text of a dozen words in an order that can be learned in part."""
    return TEXT


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """That text as a file."""
    file = tmp_path / "text.txt"
    file.write_text(TEXT, "utf-8")
    return file


@pytest.fixture
def ids() -> torch.Tensor:
    """Two rows of tokens."""
    return torch.randint(1, 300, (2, 16), generator=torch.Generator().manual_seed(3))


def _saved(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None = None
) -> Path:
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder
