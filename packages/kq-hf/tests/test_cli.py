import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

from kq_cli import doctor as doctor_module
from kq_cli.app import app
from kq_cli.reporting import size
from kq_hf import inspect_checkpoint


def kq(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeeded(result: Result) -> Result:
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_the_main_job(llama: Path, text_file: Path, tmp_path: Path) -> None:
    model, adapter = tmp_path / "nf4", tmp_path / "adapter"
    figures = {name: tmp_path / f"{name}.json" for name in ["quantize", "before", "tune", "after"]}
    common = ["--text", text_file, "--length", 32]

    options = ["--format", "nf4", "--blocksize", 32, "--double-quant"]
    result = succeeded(kq("quantize", llama, model, *options, "--json", figures["quantize"]))
    assert "bits per quantized weight" in result.stdout
    quantized = json.loads(figures["quantize"].read_text())
    assert quantized["coverage"]["quantized_parameters"] == 61440
    assert quantized["file_bytes_after"] == (model / "model.safetensors").stat().st_size

    succeeded(kq("perplexity", model, *common, "--json", figures["before"]))
    tune = ["--out", adapter, "--steps", 8, "--rank", 4, "--batch-size", 2, "--lr", 0.01]
    result = succeeded(kq("finetune", model, *common, *tune, "--json", figures["tune"]))
    assert "tokens per second" in result.stdout
    result = succeeded(
        kq("perplexity", model, *common, "--adapter", adapter, "--json", figures["after"])
    )
    before, tuned, after = (
        json.loads(figures[name].read_text()) for name in ("before", "tune", "after")
    )
    assert len(tuned["losses"]) == 8
    assert after["perplexity"] < 0.9 * before["perplexity"]
    assert f"{after['perplexity']:.4f}" in result.stdout

    again = succeeded(kq("finetune", model, *common, *tune, "--json", figures["tune"]))
    assert "8 of 8 steps were done already" in again.stderr
    assert json.loads(figures["tune"].read_text())["losses"] == tuned["losses"]

    story = tmp_path / "story.json"
    prompt = ["--prompt", "the quick", "--max-new-tokens", 6]
    result = succeeded(kq("generate", model, "--adapter", adapter, *prompt, "--json", story))
    written = json.loads(story.read_text())
    assert written["text"].strip() in result.stdout
    assert written["new_tokens"] == 6
    assert written["tokens_per_second"] > 0


def test_skip_and_format_reach_the_layers(llama: Path, tmp_path: Path) -> None:
    options = ["--format", "fp4", "--skip", "down_proj", "--skip", "o_proj", "--dtype", "bfloat16"]
    succeeded(kq("quantize", llama, tmp_path / "q", *options))
    report = inspect_checkpoint(tmp_path / "q")
    assert report.formats == {"format version 1, fp4, blocksize 64, plain scales": 10}
    assert report.dtypes.keys() == {"BF16"}


def test_inspect(quantized: Path, tmp_path: Path) -> None:
    for model in (quantized, quantized / "model.safetensors"):
        result = succeeded(kq("inspect", model, "--json", tmp_path / "figures.json"))
        assert "14" in result.stdout
        assert "nf4, blocksize 64" in result.stdout
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert figures["coverage"]["bits_per_weight"] == pytest.approx(4.184, abs=1e-3)


def test_chat_template_is_used(
    make_llama: Callable[..., LlamaForCausalLM], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    make_llama().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    template = "{% for m in messages %}the {{ m.content }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    texts = [
        succeeded(kq("generate", tmp_path, *prompt, "--max-new-tokens", 5)).stdout
        for prompt in (["--prompt", "fox", "--chat"], ["--prompt", "the fox"])
    ]
    assert texts[0] == texts[1]


def test_doctor() -> None:
    result = succeeded(kq("doctor"))
    assert "torch" in result.stdout
    findings = json.loads(succeeded(kq("doctor", "--json")).stdout)
    backends = {backend["name"]: backend for backend in findings["backends"]}
    assert backends["torch"]["status"] == "loaded"
    assert "linear_4bit" in backends["torch"]["operations"]
    if backends["native"]["status"] == "loaded":
        assert backends["native"]["about"]["isa"]
    assert findings["packages"]["transformers"]["version"]


def test_doctor_tells_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> str:
        if name == "accelerate":
            raise PackageNotFoundError(name)
        return "1.0"

    def load(name: str) -> None:
        if name == "kq_functional":
            raise ImportError("libc10.so: cannot open")

    monkeypatch.setattr(doctor_module, "version", find)
    monkeypatch.setattr(doctor_module, "import_module", load)
    result = kq("doctor", "--json")
    assert result.exit_code == 1
    findings = json.loads(result.stdout)
    assert findings["packages"]["accelerate"] == {"version": None, "error": "not installed"}
    assert "libc10.so" in findings["packages"]["kq-functional"]["error"]
    assert findings["backends"] == []
    assert "libc10.so" in kq("doctor").stdout


def test_doctor_without_native_kernels_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> str:
        if name == "kq-kernels":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor_module, "version", find)
    assert succeeded(kq("doctor")).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["quantise"], "No such command 'quantise'. Did you mean 'quantize'?"),
        (["inspect"], "Missing argument 'MODEL'"),
        (["inspect", "{tmp}/none"], "none does not exist"),
        (["inspect", "{tmp}"], "has no config.json"),
        (["inspect", "{text}"], "is not a safetensors file"),
        (["inspect", "{llama}", "--json", "{tmp}"], "is a folder"),
        (["quantize", "{llama}"], "Missing argument 'DST'"),
        (["quantize", "{llama}", "{tmp}"], "exists already"),
        (
            ["quantize", "{llama}", "{tmp}/q", "--format", "int3"],
            "--format must be one of nf4, fp4",
        ),
        (["quantize", "{llama}", "{tmp}/q", "--blocksize", "63"], "blocksize must be one of"),
        (["quantize", "{llama}", "{tmp}/q", "--blocksize", "x"], "should be a valid integer"),
        (["quantize", "{llama}", "{tmp}/q", "--dtype", "int8"], "--dtype must be one of"),
        (["quantize", "{llama}", "{tmp}/q", "--skip", "("], "no regular expression"),
        (["quantize", "{llama}", "{tmp}/q", "--skip", "model"], "no layer to quantize"),
        (["quantize", "{nf4}", "{tmp}/q"], "is quantized already (kq)"),
        (["quantize", "{tmp}/none", "{tmp}/q"], "none does not exist"),
        (["perplexity", "{nf4}"], "Missing option '--text'"),
        (["perplexity", "{nf4}", "--text", "{tmp}/none"], "does not exist"),
        (["perplexity", "{nf4}", "--text", "{tmp}"], "is a directory"),
        (["perplexity", "{nf4}", "--text", "{text}", "--length", "1"], "at least 2 tokens"),
        (["perplexity", "{nf4}", "--text", "{text}", "--tokens", "9"], "at least one row of 512"),
        (["perplexity", "{nf4}", "--text", "{text}", "--length", "99999"], "fewer than one row"),
        (["perplexity", "{nf4}", "--text", "{binary}"], "is not UTF-8 text"),
        (["perplexity", "{nf4}", "--text", "{text}", "--device", "moon"], "'moon' cannot be used"),
        (["perplexity", "{nf4}", "--text", "{text}", "--adapter", "{tmp}"], "is not an adapter"),
        (["perplexity", "{bert}", "--text", "{text}"], "has no tokenizer"),
        (["perplexity", "{encoder}", "--text", "{text}"], "is not a causal language model"),
        (["finetune", "{nf4}", "--text", "{text}"], "Missing option '--out'"),
        (["finetune", "{nf4}", "--text", "{text}", "--out", "{tmp}"], "not an adapter made by kq"),
        (["finetune", "{nf4}", "--text", "{text}", "--out", "{tmp}/a", "--rank", "0"], "rank must"),
        (["finetune", "{nf4}", "--text", "{text}", "--out", "{tmp}/a", "--optim", "x"], "optim"),
        (
            ["finetune", "{nf4}", "--text", "{text}", "--out", "{tmp}/a", "--targets", "nothing"],
            "nothing",
        ),
        (
            ["finetune", "{nf4}", "--text", "{text}", "--out", "{tmp}/a", "--save-every", "0"],
            "save_every must be at least 1",
        ),
        (["generate", "{nf4}"], "Missing option '--prompt'"),
        (["generate", "{nf4}", "--prompt", ""], "--prompt must not be empty"),
        (
            ["generate", "{nf4}", "--prompt", "x", "--max-new-tokens", "0"],
            "greater than or equal to 1",
        ),
        (
            ["generate", "{nf4}", "--prompt", "x", "--temperature", "-1"],
            "greater than or equal to 0",
        ),
        (["generate", "{nf4}", "--prompt", "x", "--chat"], "no chat template"),
        (["doctor", "now"], "unexpected extra argument"),
    ],
)
def test_bad_input_is_answered_with_one_line(
    arguments: list[str],
    message: str,
    llama: Path,
    quantized: Path,
    bert: Path,
    encoder: Path,
    text_file: Path,
    tmp_path: Path,
) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    places = {"tmp": tmp_path, "llama": llama, "nf4": quantized, "bert": bert, "text": text_file}
    places |= {"binary": binary, "encoder": encoder}
    before = sorted(tmp_path.rglob("*"))
    result = kq(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == 2, (result.output, result.exception)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("kq: error: ")
    assert message in lines[0]
    assert result.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(scope="session")
def encoder(
    tmp_path_factory: pytest.TempPathFactory, bert: Path, tokenizer: PreTrainedTokenizerFast
) -> Path:
    """The BERT encoder with a tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    for file in bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer.save_pretrained(folder)
    return folder


def test_adapter_of_another_model_is_refused(
    quantized: Path,
    make_llama: Callable[..., LlamaForCausalLM],
    text_file: Path,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    make_llama(hidden_size=32).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    options = ["--text", text_file, "--length", 32]
    out = ["--out", tmp_path / "adapter", "--steps", 1, "--batch-size", 1]
    succeeded(kq("finetune", tmp_path / "other", *options, *out))
    result = kq("perplexity", quantized, *options, "--adapter", tmp_path / "adapter")
    assert result.exit_code == 2
    assert "does not fit the model" in result.stderr


def test_training_that_diverges_ends_with_one_line(
    quantized: Path, text_file: Path, tmp_path: Path
) -> None:
    options = ["--text", text_file, "--out", tmp_path / "a", "--length", 32, "--batch-size", 1]
    result = kq("finetune", quantized, *options, "--lr", "1e30")
    assert result.exit_code == 1
    assert result.stderr.startswith("kq: error: the loss of step")


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KQ_TRACEBACK", "1")
    result = kq("inspect", tmp_path)
    assert isinstance(result.exception, ValueError)


def test_sizes_for_people() -> None:
    sizes = [size(nbytes) for nbytes in (0, 999, 1000, 538_090_408, 12_345_678_901)]
    assert sizes == ["0 B", "999 B", "1.0 kB", "538.1 MB", "12.35 GB"]


def test_int8_from_quantizing_to_generating(llama: Path, text_file: Path, tmp_path: Path) -> None:
    model, foreign, adapter = tmp_path / "int8", tmp_path / "foreign", tmp_path / "adapter"
    figures = tmp_path / "figures.json"
    common = ["--text", text_file, "--length", 32]
    succeeded(kq("quantize", llama, model, "--format", "int8", "--threshold", 5))
    config = json.loads((model / "config.json").read_text())["quantization_config"]
    assert (config["format"], config["threshold"]) == ("int8", 5.0)
    assert "int8, one scale a row" in " ".join(succeeded(kq("inspect", model)).stdout.split())
    succeeded(kq("export", model, foreign))
    measured = []
    for folder in (model, foreign):
        succeeded(kq("perplexity", folder, *common, "--json", figures))
        measured.append(json.loads(figures.read_text())["perplexity"])
    assert measured[0] == measured[1]
    tune = ["--out", adapter, "--steps", 8, "--rank", 4, "--batch-size", 2, "--lr", 0.01]
    succeeded(kq("finetune", model, *common, *tune))
    succeeded(kq("perplexity", model, *common, "--adapter", adapter, "--json", figures))
    assert json.loads(figures.read_text())["perplexity"] < 0.9 * measured[0]
    prompt = ["--prompt", "the quick", "--max-new-tokens", 6]
    succeeded(kq("generate", model, "--adapter", adapter, *prompt))


def test_options_of_other_formats_are_refused(llama: Path, tmp_path: Path) -> None:
    for options in (
        ["--format", "int8", "--blocksize", 32],
        ["--format", "int8", "--double-quant"],
        ["--format", "nf4", "--threshold", 6],
    ):
        result = kq("quantize", llama, tmp_path / "q", *options)
        assert result.exit_code == 2
        assert "no option of the format" in result.stderr
    result = kq("export", llama, tmp_path / "q")
    assert result.exit_code == 2
    assert "not an int8 model of kq" in result.stderr
    assert not (tmp_path / "q").exists()
