"""The public interface: names and signatures, versions, what an import pulls in."""

from __future__ import annotations

import inspect
import operator
import subprocess
import sys
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import kq_functional as kq

HERE = Path(__file__).parent
SNAPSHOT = HERE / "api_snapshot.txt"


# Modules whose names the packages above may use too.
MODULES = {
    "codebooks": ["shared_table"],
    "formats": [
        "FLOAT_DTYPES",
        "NESTED_BLOCKSIZE",
        "QUANT_TYPES",
        "check_blocksize",
        "check_quant_type",
    ],
    "int8_format": ["check_threshold"],
    "linear": ["linear_4bit_parts"],
}


def describe(name: str) -> list[str]:
    value = operator.attrgetter(name)(kq)
    if name == "RULES":
        return [f"RULES[{r.name!r}]: {r.signed}, {r.hyper}, norm={r.norm}" for r in value.values()]
    if not inspect.isclass(value):
        return [f"{name}{inspect.signature(value, eval_str=True)}" if callable(value) else name]
    lines = [f"class {name}"]
    names = (
        [f.name for f in fields(value)] if is_dataclass(value) else getattr(value, "_fields", ())
    )
    hints = get_type_hints(value)
    lines += [f"  {field}: {inspect.formatannotation(hints[field])}" for field in names]
    for member, attribute in sorted(vars(value).items()):
        if not member.startswith("_") and inspect.isfunction(attribute):
            lines.append(f"  {member}{inspect.signature(attribute, eval_str=True)}")
        elif isinstance(attribute, property):
            lines.append(f"  {member} (property)")
    return lines


def render() -> str:
    inner = [f"{module}.{name}" for module, names in MODULES.items() for name in names]
    return "".join(f"{line}\n" for name in [*sorted(kq.__all__), *inner] for line in describe(name))


def test_snapshot() -> None:
    """Names and signatures are a contract; to change it run this file, and raise the version."""
    assert render() == SNAPSHOT.read_text()


def test_version_is_that_of_the_package() -> None:
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    assert kq.__version__ == project["version"]


def test_every_public_name_has_a_docstring() -> None:
    for name in kq.__all__:
        if name not in ("RULES", "__version__"):
            assert inspect.getdoc(getattr(kq, name)), name


IMPORT = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("network used at import")
socket.socket.connect = socket.getaddrinfo = refuse
import torch
before = set(sys.modules)
import kq_functional
print("\\n".join(set(sys.modules) - before))
"""


def test_import_pulls_in_nothing_unexpected() -> None:
    """No third-party package beyond what torch imports by itself; no backend is loaded yet."""
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT], capture_output=True, text=True, check=True
    ).stdout.split()
    roots = {name.partition(".")[0] for name in found}
    assert roots <= {"kq_functional", "torch"} | sys.stdlib_module_names
    assert "kq_functional.backends.native" not in found
    assert "kq_functional.backends.torch" not in found


def test_import_under_a_default_device() -> None:
    """The tables are real even if the first import happens while building a meta model."""
    code = "import torch\nwith torch.device('meta'):\n    import kq_functional as kq\n"
    code += "assert kq.quantize_4bit(torch.ones(4))[1].code.device.type == 'cpu'"
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    SNAPSHOT.write_text(render())
