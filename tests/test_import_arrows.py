"""Imports run down the dependency table of the design and nowhere else."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STANDARD = sys.stdlib_module_names
# Import name -> where it lives, and which other packages its source may name.
PACKAGES = {
    "kq_kernels": ("packages/kq-kernels", set()),
    "kq_functional": ("packages/kq-functional", {"torch", "kq_kernels"}),
    "kq_nn": ("packages/kq-nn", {"torch", "kq_functional"}),
    "kq_optim": ("packages/kq-optim", {"torch", "kq_functional"}),
    "kq_hf": (
        "packages/kq-hf",
        {"torch", "kq_functional", "kq_nn", "kq_optim", "kq_cli"}
        | {"transformers", "peft", "accelerate", "huggingface_hub", "safetensors", "typer", "rich"}
        | {"matplotlib"},  # optional
    ),
    "kq_conformance": (
        "conformance",
        {"numpy", "typer", "rich", "jinja2", "jsonschema", "pebble"}
        # Each where `test_the_suite_reaches_backends_in_few_places` says.
        | {"torch", "kq_functional", "pytest"},
    ),
}
UNEXPECTED = ["triton", "scipy", "transformers", "peft", "accelerate", "bitsandbytes", "sklearn"]


def imported(file: Path) -> set[str]:
    """Top-level names that a source file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def sources(name: str) -> list[Path]:
    return sorted((ROOT / PACKAGES[name][0] / "src").rglob("*.py"))


@pytest.mark.parametrize("name", PACKAGES)
def test_source_names_only_what_the_design_allows(name: str) -> None:
    allowed = PACKAGES[name][1] | {name}
    for file in sources(name):
        foreign = imported(file) - STANDARD - allowed
        assert not foreign, f"{file.relative_to(ROOT)} imports {sorted(foreign)}"


def test_kernels_are_imported_by_the_native_backend_alone() -> None:
    users = {
        str(file.relative_to(ROOT / "packages/kq-functional/src/kq_functional"))
        for file in sources("kq_functional")
        if "kq_kernels" in imported(file)
    }
    assert users == {"backends/native.py"}


def test_packages_use_each_other_through_public_names() -> None:
    # The public modules of kq_functional besides the package itself; its API snapshot covers them.
    modules = ("codebooks", "formats", "int8_format", "linear")
    public = {"kq_functional", *(f"kq_functional.{module}" for module in modules)}
    for name in ("kq_nn", "kq_optim", "kq_hf"):
        for file in sources(name):
            used = {
                node.module
                for node in ast.walk(ast.parse(file.read_text("utf-8")))
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kq_func")
            }
            assert used <= public, file


def test_the_reference_knows_numpy_alone() -> None:
    reference = ROOT / "conformance/src/kq_conformance/reference"
    for file in sorted(reference.rglob("*.py")):
        assert imported(file) - STANDARD <= {"numpy", "kq_conformance"}, file


def test_the_suite_reaches_backends_in_few_places() -> None:
    places = {
        "torch": {"adapter.py", "arena.py", "mutants", "public"},
        "kq_functional": {"public"},
        "pytest": {"asker.py", "plugin.py"},
    }
    suite = ROOT / "conformance/src/kq_conformance"
    for name, expected in places.items():
        users = {
            file.relative_to(suite).parts[0]
            for file in sources("kq_conformance")
            if name in imported(file)
        }
        assert users == expected, name


@cache
def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "name", ["kq_kernels", "kq_functional", "kq_nn", "kq_optim", "kq_conformance"]
)
def test_importing_pulls_in_nothing_unexpected(name: str) -> None:
    by_torch = loaded_by("import torch") if name not in ("kq_kernels", "kq_conformance") else set()
    extra = loaded_by(f"import {name}") - by_torch
    assert not extra & set(UNEXPECTED)
    family = {"kq_nn", "kq_optim"} if name != "kq_functional" else {"kq_nn", "kq_optim", "kq_hf"}
    assert not extra & (family - {name})
    if name == "kq_conformance":
        assert "torch" not in extra


def test_importing_opens_no_connection() -> None:
    # An audit hook sees every socket that Python code makes, whatever library asks for it.
    code = (
        "import sys\n"
        "def hook(event, args):\n"
        "    if event == 'socket.connect': raise SystemExit(f'connects to {args[1]}')\n"
        "sys.addaudithook(hook)\n"
        "import kq_kernels, kq_functional, kq_nn, kq_optim, kq_hf, kq_conformance"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
