import pytest
from transformers.quantizers.auto import AutoQuantizationConfig

from kq_hf import KqConfig


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (KqConfig("fp4", 128, False, ["lm_head"]), {"blocksize": 128, "double_quant": False}),
        (KqConfig("int8", threshold=5.0), {"threshold": 5.0}),
        (KqConfig("int8"), {"threshold": 6.0}),
        (
            KqConfig("int8", kept_columns={"a.b": [3, 1]}),
            {"threshold": 6.0, "kept_columns": {"a.b": [1, 3]}},
        ),
        (KqConfig(), {"blocksize": 64, "double_quant": True}),
    ],
)
def test_survives_its_own_json(config: KqConfig, options: dict[str, object]) -> None:
    stored = config.to_dict()
    names = ("blocksize", "double_quant", "threshold", "kept_columns")
    assert {name: stored[name] for name in names if name in stored} == options
    again = KqConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()


def test_is_found_by_its_name() -> None:
    config = AutoQuantizationConfig.from_dict({"quant_method": "kq", "blocksize": 32})
    assert isinstance(config, KqConfig)
    assert config.blocksize == 32


def test_has_no_key_that_transformers_takes_for_bitsandbytes() -> None:
    assert not {"load_in_4bit", "load_in_8bit"} & set(KqConfig().to_dict())


def test_key_of_a_later_version_is_ignored_aloud() -> None:
    with pytest.warns(UserWarning, match="ignores \\['sparsity'\\]"):
        config = KqConfig.from_dict({"format": "fp4", "sparsity": 0.5})
    assert config.format == "fp4"
    assert config.get("sparsity", "none") == "none"
    assert config.get("format") == "fp4"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"format": "int3"}, ValueError, "format must be one of nf4, fp4, int8"),
        ({"threshold": 6.0}, ValueError, "threshold is no option of the format nf4"),
        ({"format": "int8", "double_quant": True}, ValueError, "no option of the format int8"),
        ({"format": "int8", "threshold": -1.0}, ValueError, "threshold"),
        ({"stored_as": "bitsandbytes"}, ValueError, "stored_as .*nf4 .*'bitsandbytes'"),
        (
            {"format": "int8", "stored_as": "bitsandbytes", "kept_columns": {"a": [1]}},
            ValueError,
            "kept_columns cannot be stored as 'bitsandbytes'",
        ),
        ({"kept_columns": {"a": [1]}}, ValueError, "kept_columns is no option of the format nf4"),
        ({"format": "int8", "kept_columns": [1]}, TypeError, "kept_columns must map names"),
        ({"blocksize": 48}, ValueError, "blocksize"),
        ({"blocksize": "64"}, TypeError, "blocksize"),
        ({"double_quant": 1}, TypeError, "double_quant"),
        ({"modules_to_not_convert": "lm_head"}, TypeError, "modules_to_not_convert"),
        ({"modules_to_not_convert": ["("]}, ValueError, "modules_to_not_convert"),
        ({"quant_method": "gptq"}, ValueError, "quant_method"),
    ],
)
def test_bad_argument_is_named(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        KqConfig(**arguments)
