"""`kq doctor`."""

import json as json_format
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from rich.table import Table

from kq_cli.reporting import activity, print_figures, results

_PACKAGES = (
    "kq-functional",
    "kq-kernels",
    "kq-nn",
    "kq-optim",
    "kq-hf",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "tokenizers",
)


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Tells which backends were found, which instruction set runs, and what failed to load."""
    with activity("importing everything once"):
        findings = _examine()
    if json:
        typer.echo(json_format.dumps(findings, indent=1))
    else:
        _print(findings)
    if any(package["error"] for package in findings["packages"].values()):
        raise typer.Exit(1)


def _examine() -> dict[str, Any]:
    packages = {name: _package(name) for name in _PACKAGES}
    findings: dict[str, Any] = {
        "system": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": _processor(),
        },
        "packages": packages,
        "backends": [],
    }
    if packages["kq-functional"]["error"] is None:
        findings["backends"] = _backends()
    return findings


def _package(name: str) -> dict[str, str | None]:
    """Version of a package, and why it cannot be imported if so."""
    try:
        found = version(name)
    except PackageNotFoundError:
        # kq-kernels is optional: without it the backend written in torch does everything.
        return {"version": None, "error": None if name == "kq-kernels" else "not installed"}
    try:
        import_module(name.replace("-", "_"))
    except Exception as error:  # a broken extension module may raise anything
        return {"version": found, "error": f"{type(error).__name__}: {error}"}
    return {"version": found, "error": None}


def _processor() -> str:
    """Name of the processor."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line.partition(":")[2] for line in file if line.startswith("model name")]
        name = models[0].strip() if models else name
    except OSError:  # not Linux
        pass
    return name


def _backends() -> list[dict[str, Any]]:
    import kq_functional

    return [
        {
            "name": record.name,
            "status": record.status,
            "error": record.error,
            "about": record.description or {},
            "operations": sorted({capability.op for capability in record.capabilities}),
        }
        for record in kq_functional.backends()
    ]


def _print(findings: dict[str, Any]) -> None:
    print_figures("system", findings["system"])
    packages = Table(title="packages", title_justify="left")
    for column in ("name", "version", "problem"):
        packages.add_column(column)
    for name, package in findings["packages"].items():
        packages.add_row(name, package["version"] or "-", package["error"] or "")
    results.print(packages)
    backends = Table(title="backends", title_justify="left")
    for column in ("name", "status", "about", "operations"):
        backends.add_column(column)
    for backend in findings["backends"]:
        about = backend["error"] or ", ".join(f"{k} {v}" for k, v in backend["about"].items())
        backends.add_row(
            backend["name"], backend["status"], about, "\n".join(backend["operations"])
        )
    results.print(backends)
