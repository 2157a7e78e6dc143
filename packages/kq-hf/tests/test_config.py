import pytest
from transformers.quantizers.auto import AutoQuantizationConfig

from kq_hf import KqConfig


def test_survives_its_own_json() -> None:
    config = KqConfig("fp4", 128, False, ["lm_head"])
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
        config = KqConfig.from_dict({"quant_type": "fp4", "sparsity": 0.5})
    assert config.quant_type == "fp4"
    assert config.get("sparsity", "none") == "none"
    assert config.get("quant_type") == "fp4"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"quant_type": "int3"}, ValueError, "quant_type"),
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
