"""Finding, loading, choosing, pinning and explaining backends."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import kq_functional as kq
from kq_functional import registry
from kq_functional.backends import native
from kq_functional.backends.torch import TorchBackend

pytestmark = pytest.mark.usefixtures("fresh_registry")

PLUGIN = """
from kq_functional import Capability
from kq_functional.backends.torch import TorchBackend

FLOAT32 = frozenset({"float32"})


class Plugin(TorchBackend):
    name = "plugin"
    version = "3"
    capabilities = (Capability("quantize_blockwise", FLOAT32, blocksizes=frozenset({64})),)
    calls = 0

    def quantize_blockwise(self, *args, **kwargs):
        type(self).calls += 1
        super().quantize_blockwise(*args, **kwargs)


BACKEND = Plugin()


def load():
    return BACKEND
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Write a module that can be imported during the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(name: str, text: str) -> None:
        assert name not in before
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(text)

    return write


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Add entry points to the installed ones."""
    installed = list(registry.entry_points(group=registry.GROUP))

    def add(**values: str) -> None:
        added = [EntryPoint(name, value, registry.GROUP) for name, value in values.items()]
        monkeypatch.setattr(registry, "entry_points", lambda **_: installed + added)

    return add


def names() -> list[str]:
    return [record.name for record in kq.backends()]


def record_of(name: str) -> registry.BackendRecord:
    return next(record for record in kq.backends() if record.name == name)


def test_built_in_backends_come_first_in_order(register: Callable[..., None]) -> None:
    register(aaa="kq_functional.backends.torch:load")
    assert names() == ["native", "torch", "aaa"]


def test_torch_backend_declares_every_op_everywhere() -> None:
    record = record_of("torch")
    assert record.status == "loaded"
    assert record.error == ""
    assert record.description == {"version": torch.__version__}
    assert {c.op for c in record.capabilities} == set(registry.OPS)
    assert all(c.devices is None for c in record.capabilities)


def test_module_object(plugin: Callable[[str, str], None]) -> None:
    """An object, or a function that returns one; the pinned backend is the one that runs."""
    plugin("kq_plugin_a", PLUGIN)
    for attribute in ("BACKEND", "load"):
        with kq.use_backend(f"kq_plugin_a:{attribute}"):
            kq.quantize_blockwise(torch.ones(3), blocksize=64)
    assert sys.modules["kq_plugin_a"].Plugin.calls == 2
    kq.quantize_blockwise(torch.ones(3), blocksize=64)
    assert sys.modules["kq_plugin_a"].Plugin.calls == 2


def test_methods_may_belong_to_the_object(plugin: Callable[[str, str], None]) -> None:
    plugin(
        "kq_test_methods",
        PLUGIN + "from types import SimpleNamespace\n\n"
        "class Held:\n"
        "    backend = SimpleNamespace(name='held', version='1', describe=dict,\n"
        "        capabilities=Plugin.capabilities,\n"
        "        quantize_blockwise=BACKEND.quantize_blockwise)\n",
    )
    with kq.use_backend("kq_test_methods:Held.backend"):
        codes, _ = kq.quantize_blockwise(torch.ones(1, 64), blocksize=64)
    assert codes.unique().numel() == 1


def test_registered_plugin(
    plugin: Callable[[str, str], None], register: Callable[..., None]
) -> None:
    plugin("kq_plugin_b", PLUGIN)
    register(plugin="kq_plugin_b:load")
    record = record_of("plugin")
    assert record.status == "loaded"
    assert record.source == "kq_plugin_b:load"
    assert record.description == {"version": "3"}
    # It comes after the built-in ones, so it runs only when asked for.
    assert kq.explain("quantize_blockwise", blocksize=64).chosen != "plugin"
    with kq.use_backend("plugin"):
        assert kq.explain("quantize_blockwise", blocksize=64).chosen == "plugin"


def test_pinned_backend_without_the_op(plugin: Callable[[str, str], None]) -> None:
    plugin("kq_plugin_c", PLUGIN)
    pinned = "kq_plugin_c:load"
    with kq.use_backend(pinned):
        with pytest.raises(NotImplementedError, match=f"{pinned}' .*: does not declare quantize_4"):
            kq.quantize_4bit(torch.ones(3))
        with pytest.raises(NotImplementedError, match="quantize_blockwise not for blocksize 32"):
            kq.quantize_blockwise(torch.ones(3), blocksize=32)
        with pytest.raises(NotImplementedError, match="quantize_blockwise not for float16"):
            kq.quantize_blockwise(torch.ones(3).half(), blocksize=64)
    kq.quantize_4bit(torch.ones(3))


def test_broken_backend_is_reported_once_and_skipped(
    plugin: Callable[[str, str], None], register: Callable[..., None]
) -> None:
    plugin("kq_broken_a", "raise ImportError('libfast.so.3: cannot open shared object file')")
    register(broken="kq_broken_a:load")
    with pytest.warns(RuntimeWarning, match=r"'broken' cannot be loaded .*: libfast.so.3: cannot"):
        record = record_of("broken")
    assert record.status == "failed"
    assert record.error == "libfast.so.3: cannot open shared object file"
    assert record.capabilities == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert record_of("broken").status == "failed"
        kq.quantize_4bit(torch.ones(3))


def test_backend_asked_for_by_name_raises_the_loader_message(
    plugin: Callable[[str, str], None], register: Callable[..., None]
) -> None:
    plugin("kq_broken_b", "def load():\n    raise OSError('driver too old')")
    register(broken="kq_broken_b:load")
    with (
        pytest.warns(RuntimeWarning, match="driver too old"),
        pytest.raises(ImportError, match="'broken' cannot be loaded: driver too old") as caught,
        kq.use_backend("broken"),
    ):
        raise AssertionError
    assert isinstance(caught.value.__cause__, OSError)


OF_OTHERS = """
from types import SimpleNamespace


class Backend:
    name, version = "others", "7"
    capabilities = [
        SimpleNamespace(
            op="quantize_blockwise",
            dtypes={"float32"},
            devices=None,
            quant_types=(),
            blocksizes=range(1, 65),
            rules=(),
        )
    ]

    def describe(self):
        return {"version": self.version}

    def quantize_blockwise(self, A, code, codes, absmax, *, blocksize):
        codes.fill_(blocksize)
        absmax.fill_(7)
"""


def test_a_backend_that_imports_nothing_of_this_package(
    plugin: Callable[[str, str], None], register: Callable[..., None]
) -> None:
    plugin("kq_others", OF_OTHERS)
    register(others="kq_others:Backend")
    assert record_of("others").status == "loaded"
    assert record_of("others").description == {"version": "7"}
    with kq.use_backend("others"):
        codes, state = kq.quantize_blockwise(torch.ones(3), blocksize=64)
        with pytest.raises(NotImplementedError, match="not for blocksize 65"):
            kq.quantize_blockwise(torch.ones(3), blocksize=65)
    assert codes.tolist() == [64] * 3
    assert state.absmax.tolist() == [7]


NOT_A_BACKEND = """
from kq_functional import Backend, Capability

class load(Backend):
    name, version = "x", "1"
    capabilities = (Capability("{op}", frozenset()),)
"""


@pytest.mark.parametrize(
    ("module", "text", "message"),
    [
        ("kq_odd_a", "load = object", "is not a kq backend: it has no attribute 'name'"),
        (
            "kq_odd_b",
            NOT_A_BACKEND.format(op="linear_4bit"),
            "declares linear_4bit but does not implement it",
        ),
        (
            "kq_odd_c",
            NOT_A_BACKEND.format(op="linear_3bit"),
            "declares an unknown capability: .*linear_3bit",
        ),
        ("kq_odd_d", "", "has no attribute 'load'"),
        (
            "kq_odd_e",
            OF_OTHERS.replace("quant_types=(),", "").replace("rules=(),", "") + "load = Backend()",
            "declares a capability without quant_types, rules: namespace",
        ),
        (
            "kq_odd_f",
            OF_OTHERS.replace("devices=None", "devices='cpu'") + "load = Backend()",
            "declares quantize_blockwise with devices that are no set: 'cpu'",
        ),
        (
            "kq_odd_g",
            OF_OTHERS.replace('{"float32"}', "None") + "load = Backend()",
            "declares quantize_blockwise with dtypes that are no set: None",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:kq backend")
def test_not_a_backend(
    plugin: Callable[[str, str], None], module: str, text: str, message: str
) -> None:
    plugin(module, text)
    with pytest.raises(ImportError, match=message), kq.use_backend(f"{module}:load"):
        raise AssertionError


def test_missing_module() -> None:
    with (
        pytest.warns(RuntimeWarning, match="No module named 'kq_absent'"),
        pytest.raises(ImportError, match="No module named 'kq_absent'"),
        kq.use_backend("kq_absent:load"),
    ):
        raise AssertionError


@pytest.mark.parametrize("name", ["cuda13", "a:", ":b", ""])
def test_unknown_name_lists_the_registered_ones(name: str) -> None:
    with (
        pytest.raises(ValueError, match=f"unknown backend {name!r}: registered are native, torch"),
        kq.use_backend(name),
    ):
        raise AssertionError


def test_duplicate_name_keeps_ours(register: Callable[..., None]) -> None:
    register(torch="elsewhere:load")
    with pytest.warns(RuntimeWarning, match=r"using kq_functional.*, ignoring elsewhere:load"):
        assert record_of("torch").source == "kq_functional.backends.torch:load"


def test_native_not_installed_is_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kq_kernels", None)  # import raises ModuleNotFoundError
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = record_of("native")
        assert kq.explain("linear_4bit").chosen == "torch"
    assert record.status == "not installed"
    assert "pip install 'kq-functional[native]'" in record.error
    with pytest.raises(ImportError, match="not installed"), kq.use_backend("native"):
        raise AssertionError


def test_native_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(__version__="0.0.1", quantize_4bit=None)
    monkeypatch.setitem(sys.modules, "kq_kernels", old)
    with pytest.raises(ImportError, match=r"kq_kernels 0.0.1 does not fit .* no dequantize_4bit,"):
        native.load()
    with pytest.warns(RuntimeWarning, match="'native' cannot be loaded"):
        assert record_of("native").status == "failed"


def test_native_that_lacks_a_module_of_its_own(
    plugin: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken install is a failure, unlike an absent one."""
    plugin("kq_kernels_broken", "import kq_kernels_core")
    monkeypatch.delitem(sys.modules, "kq_kernels", raising=False)
    real = __import__

    def importer(name: str, *args: object) -> object:
        return real("kq_kernels_broken" if name == "kq_kernels" else name, *args)

    monkeypatch.setattr("builtins.__import__", importer)
    with pytest.raises(ModuleNotFoundError, match="kq_kernels_core"):
        native.load()


def test_pins_nest_and_end_on_errors() -> None:
    def chosen() -> str | None:
        return kq.explain("quantize_4bit").chosen

    free = chosen()
    with kq.use_backend("torch"):
        assert chosen() == "torch"
        with kq.use_backend("kq_functional.backends.torch:load"):
            assert chosen() == "kq_functional.backends.torch:load"
        with pytest.raises(ZeroDivisionError), kq.use_backend("kq_functional.backends.torch:load"):
            print(1 / 0)
        assert chosen() == "torch"
    assert chosen() == free


def test_a_pin_belongs_to_its_thread() -> None:
    found = []
    with kq.use_backend("torch"):
        thread = threading.Thread(target=lambda: found.append(str(kq.explain("quantize_4bit"))))
        thread.start()
        thread.join()
    assert "pinned" not in found[0]


def test_choice_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kq.quantize_4bit(torch.ones(3))
    monkeypatch.setattr(registry, "load", None)
    kq.quantize_4bit(torch.ones(3))


def test_explain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kq_kernels", None)
    assert str(kq.explain("linear_4bit", dtype=torch.bfloat16, quant_type="fp4")) == (
        "linear_4bit(device=cpu, dtype=bfloat16, quant_type=fp4, blocksize=64): torch\n"
        "  native: cannot be loaded: kq-kernels is not installed "
        "(pip install 'kq-functional[native]')\n"
        "  torch: chosen"
    )
    with kq.use_backend("torch"):
        assert str(kq.explain("optimizer_step_8bit")) == (
            "optimizer_step_8bit(device=cpu, dtype=float32, blocksize=256, rule=adam, "
            "rounding=nearest): torch\n"
            "  torch: pinned by use_backend"
        )


def test_explain_of_loaded_native(backend: str) -> None:
    if backend == "native":
        kernels = native.load()._kernels
        description = record_of("native").description
        assert description is not None
        assert description["isa"] == kernels.isa()
        assert description["version"] == kernels.__version__
    for op in ("quantize_blockwise", "dequantize_blockwise"):
        explanation = kq.explain(op, blocksize=77)
        assert explanation.chosen == backend
        assert explanation.query == f"{op}(device=cpu, dtype=float32, blocksize=77)"


def test_explain_other_device() -> None:
    reasons = dict(kq.explain("linear_4bit", device="cuda:1").candidates)
    assert reasons["torch"] == "chosen"
    assert reasons["native"].startswith(("linear_4bit not on device cuda", "cannot be loaded"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"op": "linear_3bit"}, ValueError, "op must be one of quantize_4bit, .*'linear_3bit'"),
        ({"op": "linear_4bit", "dtype": torch.int8}, TypeError, "x must be one of .* got int8"),
        ({"op": "linear_4bit", "blocksize": 5}, ValueError, "blocksize must be one of .* got 5"),
        ({"op": "linear_4bit", "quant_type": "x"}, ValueError, "quant_type must be one of"),
        ({"op": "optimizer_step_8bit", "rule": "x"}, ValueError, "rule must be one of sgd, "),
    ],
)
def test_explain_bad_arguments(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kq.explain(**arguments)


def test_no_backend_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda **_: [])
    with pytest.raises(NotImplementedError, match="no backend can compute this"):
        kq.quantize_4bit(torch.ones(3))


def test_base_class_implements_nothing() -> None:
    backend = kq.Backend()
    for op in registry.OPS:
        arguments = [None] * 8
        method = getattr(backend, op)
        code = method.__func__.__code__
        keywords = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
        with pytest.raises(NotImplementedError):
            method(*arguments[: code.co_argcount - 1], **dict.fromkeys(keywords))
    assert isinstance(TorchBackend(), kq.Backend)
