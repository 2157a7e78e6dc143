"""Everything that can be run here: `uv run nox -l` lists it.

All sessions share the workspace's own environment (`.venv`), which `uv sync` brings up to date
first; only `build` makes empty environments, because that is what it is about.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests", "conformance", "docs"]

ROOT = Path(__file__).parent
BUILD = ROOT / "build"
REPORTS = BUILD / "conformance"
KEPT_REPORTS = ROOT / "conformance" / "reports"
PACKAGES = ["kq-kernels", "kq-functional", "kq-nn", "kq-optim", "kq-hf", "kq-conformance"]
# What each package needs from this repository, itself last.
NEEDS = {
    "kq-kernels": ["kq-kernels"],
    "kq-functional": ["kq-functional"],
    "kq-nn": ["kq-functional", "kq-nn"],
    "kq-optim": ["kq-functional", "kq-optim"],
    "kq-hf": ["kq-kernels", "kq-functional", "kq-nn", "kq-optim", "kq-hf"],
    "kq-conformance": ["kq-conformance"],
}
SMOKE = {
    "kq-kernels": "import kq_kernels; print(kq_kernels.build_info())",
    "kq-functional": (
        "import torch, kq_functional as F\n"
        "packed, state = F.quantize_4bit(torch.randn(8, 64), quant_type='nf4')\n"
        "print(F.dequantize_4bit(packed, state).shape, F.explain('quantize_4bit'))"
    ),
    "kq-nn": (
        "import torch, kq_nn\n"
        "layer = kq_nn.LinearNF4.from_linear(torch.nn.Linear(64, 8))\n"
        "print(layer(torch.randn(2, 64)).shape)"
    ),
    "kq-optim": (
        "import torch, kq_optim\n"
        "weight = torch.nn.Parameter(torch.randn(64, 64)); weight.grad = torch.randn(64, 64)\n"
        "kq_optim.AdamW8bit([weight]).step(); print(weight.shape)"
    ),
    "kq-hf": "import kq_hf; print(kq_hf.KqConfig())",
    "kq-conformance": "import kq_conformance.reference as r; print(r.__name__)",
}
MAX_KERNELS_WHEEL = 3_000_000  # bytes, for CPU


def sync(session: nox.Session, *groups: str) -> None:
    chosen = [argument for group in groups for argument in ("--group", group)]
    session.run("uv", "sync", "--inexact", "--quiet", *chosen, external=True)


def instruction_sets(session: nox.Session) -> list[str]:
    names = session.run(
        "python",
        "-c",
        "import kq_kernels; print(*kq_kernels.available_isas())",
        silent=True,
        external=True,
    )
    return str(names).split()


@nox.session
def demo(session: nox.Session) -> None:
    """The main job on a real language model: quantize, measure, fine-tune, generate."""
    sync(session, "demo")
    session.run("python", "-m", "demo", *session.posargs, external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """Unit tests of every package, without those marked slow, and of the repository."""
    sync(session)
    session.run(
        *("pytest", "-m", "not slow", "-n", "auto", "--dist", "loadfile"),
        # A process that dies ends the run: with another in its place pytest-xdist may wait forever.
        *("--max-worker-restart", "0", *session.posargs),
        # Threads that wait for others of their process would keep the other processes waiting.
        env={"OMP_WAIT_POLICY": "passive"},
        external=True,
    )


@nox.session
def slow(session: nox.Session) -> None:
    """Tests that take minutes, much memory or downloads."""
    sync(session, "demo")
    session.run("pytest", "-m", "slow", *session.posargs, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff and clang-format: style and layout of every file."""
    sync(session)
    session.run("ruff", "check", ".", external=True)
    session.run("ruff", "format", "--check", ".", external=True)
    sources = sorted(map(str, ROOT.glob("packages/*/csrc/**/*.[hc]*")))
    session.run("clang-format", "--dry-run", "--Werror", *sources, external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, on everything that is not a test."""
    sync(session)
    for source in [*sorted(ROOT.glob("packages/*/src")), ROOT / "conformance/src"]:
        session.run("mypy", str(source.relative_to(ROOT)), external=True)
    session.run("mypy", "-p", "benchmarks", "-p", "demo", external=True)
    session.run("mypy", "examples/kq-backend-numpy/src", external=True)


def backends(session: nox.Session) -> list[tuple[str, str]]:
    """Every backend that can run here, with the instruction set to force."""
    return [("torch", ""), *(("native", isa) for isa in instruction_sets(session))]


def certify(session: nox.Session, profile: str, reports: Path, *options: str) -> list[str]:
    """Run the suite on every backend; the names of the reports."""
    reports.mkdir(parents=True, exist_ok=True)
    written = []
    for backend, isa in backends(session):
        written.append(str(reports / f"{backend}{'-' + isa if isa else ''}.json"))
        session.run(
            *("kq-conformance", "run", "--backend", backend, "--profile", profile),
            *("-j", "2", "--json", written[-1], *options),
            env={"KQ_CPU_ISA": isa} if isa else {},
            external=True,
        )
    return written


@nox.session
def conformance(session: nox.Session) -> None:
    """The suite, profile core, on every backend and instruction set here, and its mutants."""
    sync(session)
    written = certify(session, "core", REPORTS, *session.posargs)
    # What the pages say must be what was just seen.
    session.run("kq-conformance", "support", *written, "--check", "README.md", external=True)
    table = BUILD / "mutants.md"
    session.run("kq-conformance", "mutants", "-j", "2", "--markdown", str(table), external=True)
    if table.read_text() != (ROOT / "docs" / "mutants.md").read_text():
        session.error(
            "docs/mutants.md is stale: kq-conformance mutants -j 2 --markdown docs/mutants.md"
        )


@nox.session
def full(session: nox.Session) -> None:
    """The suite, profile full, on every backend: the reports that are kept. 16 GB, half an hour."""
    sync(session)
    certify(session, "full", KEPT_REPORTS, *session.posargs)
    certify_example(session, "full", KEPT_REPORTS)
    session.run(
        *("kq-conformance", "render", *map(str, sorted(KEPT_REPORTS.glob("*.json")))),
        *("--format", "tightness", "--out", "docs/tightness.md"),
        external=True,
    )


@nox.session
def example(session: nox.Session) -> None:
    """The third-party backend of examples/, built, installed and certified as an outsider would."""
    sync(session)
    report = certify_example(session, "core", REPORTS)
    session.run("kq-conformance", "support", report, "--check", "README.md", external=True)


def certify_example(session: nox.Session, profile: str, reports: Path) -> str:
    """Build, install, test and certify examples/kq-backend-numpy; the name of the report."""
    source = ROOT / "examples" / "kq-backend-numpy"
    dist, environment = BUILD / "example", BUILD / "environments" / "example"
    shutil.rmtree(dist, ignore_errors=True)
    for place in (["--package", "kq-conformance"], ["--package", "kq-functional"], [str(source)]):
        session.run(
            *("uv", "build", "--quiet", "--wheel", "--out-dir", str(dist)), *place, external=True
        )
    session.run(
        "uv", "venv", "--quiet", "--clear", "--python", "3.11", str(environment), external=True
    )
    python, command = (str(environment / "bin" / name) for name in ("python", "kq-conformance"))
    session.run(
        *("uv", "pip", "install", "--quiet", "--python", python, "pytest", "pytest-markdown-docs"),
        *map(str, sorted(dist.glob("*.whl"))),
        external=True,
    )
    reports.mkdir(parents=True, exist_ok=True)
    report = str(reports / "numpy.json")
    clean = {"PYTHONPATH": ""}  # the packages are those that were installed
    with session.chdir(source):
        session.run(python, "-m", "pytest", "-q", env=clean, external=True)
        session.run(
            *(python, "-m", "pytest", "-q", "--markdown-docs", "-m", "markdown-docs", "README.md"),
            env=clean,
            external=True,
        )
        session.run(
            *(command, "run", "--backend", "numpy", "--profile", profile),
            *("-j", "2", "--json", report),
            *(("--waivers", "waivers.toml") if profile == "full" else ()),
            env=clean,
            external=True,
        )
    shutil.rmtree(environment)
    return report


@nox.session
def amx_model(session: nox.Session) -> None:
    """The kernels that use tiles (AMX), with a model of them: on a processor with AVX-512 VNNI."""
    sync(session)
    if "vnni" not in instruction_sets(session):
        session.skip("what is not done with tiles is done with VNNI, which this processor lacks")
    environment = BUILD / "environments" / "amx-model"
    session.run(
        "uv", "venv", "--quiet", "--clear", "--python", "3.11", str(environment), external=True
    )
    python, command = (str(environment / "bin" / name) for name in ("python", "kq-conformance"))
    session.run(
        *("uv", "pip", "install", "--quiet", "--python", python),
        *("--config-settings-package", "kq-kernels:cmake.define.KQ_AMX_MODEL=ON"),
        *("--config-settings-package", f"kq-kernels:build-dir={BUILD / 'amx-model'}"),
        *("./packages/kq-kernels", "./packages/kq-functional", "./conformance", "pytest"),
        external=True,
    )
    clean = {"PYTHONPATH": ""}  # the packages are those that were installed
    session.run(
        *(python, "-m", "pytest", "-q", "-m", "not slow", "-k", "amx or tiles"),
        *("packages/kq-kernels/tests", "packages/kq-functional/tests/test_tiles.py"),
        env=clean,
        external=True,
    )
    # All other operations are those of AVX-512 or VNNI.
    for cases in ("linear_4bit*bfloat16*", "int8_linear*"):
        session.run(
            *(command, "run", "--backend", "native", "--profile", "core", "-j", "2"),
            *("--select", cases),
            env=clean | {"KQ_CPU_ISA": "amx"},
            external=True,
        )
    shutil.rmtree(environment)


@nox.session
def interop(session: nox.Session) -> None:
    """Bytes, values and training against bitsandbytes on real models; takes long."""
    sync(session, "demo", "interop")
    session.run("pytest", "interop", "--rootdir=.", *session.posargs, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """Side-by-side measurements with dense torch and bitsandbytes; see benchmarks/README.md."""
    sync(session, "interop", "demo")
    session.run("python", "-m", "benchmarks", *session.posargs, external=True)


@nox.session
def quality(session: nox.Session) -> None:
    """What 8-bit optimizer state costs: a small GPT from scratch with each optimizer."""
    sync(session, "interop", "demo")
    folder = session.posargs or [str(BUILD / "quality")]
    session.run("python", "-m", "benchmarks.quality", *folder, external=True)


@nox.session
def sanitize(session: nox.Session) -> None:
    """Tests of the kernels, built to stop at memory errors and undefined behaviour (gcc)."""
    place, environment = BUILD / "sanitize", BUILD / "environments" / "sanitize"
    shutil.rmtree(place, ignore_errors=True)
    session.run(
        *("uv", "build", "--quiet", "--wheel", "--python", "3.11", "--package", "kq-kernels"),
        *("-C", "cmake.define.KQ_SANITIZE=ON", "-C", "cmake.build-type=Debug"),
        *("-C", f"build-dir={place / 'cmake'}", "--out-dir", str(place)),
        external=True,
    )
    # An environment of its own: in `.venv` the editable install comes before any PYTHONPATH.
    session.run(
        "uv", "venv", "--quiet", "--clear", "--python", "3.11", str(environment), external=True
    )
    python = str(environment / "bin" / "python")
    session.run(
        *("uv", "pip", "install", "--quiet", "--python", python, "numpy", "pytest"),
        *map(str, place.glob("*.whl")),
        external=True,
    )
    compiler = os.environ.get("CXX", "c++")
    # The second because the first looks for the functions that it replaces when it is loaded.
    runtimes = [
        str(session.run(compiler, f"-print-file-name={name}", silent=True, external=True)).strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    session.run(
        *(python, "-m", "pytest", "-q", "-m", "not slow", "packages/kq-kernels/tests"),
        *session.posargs,
        env={
            "PYTHONPATH": "",
            "PYTHONMALLOC": "malloc",  # Python's own allocator hides where objects end
            "LD_PRELOAD": " ".join(runtimes),  # python itself is built without them
            "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it needs to the end
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
        external=True,
    )
    shutil.rmtree(environment)


@nox.session
def docs(session: nox.Session) -> None:
    """Runs every Python example of every Markdown file."""
    sync(session)
    pages = [ROOT / "README.md", ROOT / "conformance" / "README.md"]
    pages += [*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("packages/*/README.md"))]
    with session.chdir(session.create_tmp()):  # examples write files where they are
        session.run(
            *("pytest", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")),
            *("--markdown-docs", "-m", "markdown-docs", *map(str, pages)),
            external=True,
        )


@nox.session
def build(session: nox.Session) -> None:
    """Every package: its sdist, and the wheel that uv makes of that, in an empty environment."""
    dist = BUILD / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    for package in PACKAGES:
        session.run(
            "uv", "build", "--quiet", "--package", package, "--out-dir", str(dist), external=True
        )
    for wheel in dist.glob("kq_kernels-*.whl"):
        if wheel.stat().st_size > MAX_KERNELS_WHEEL:
            session.error(
                f"{wheel.name} has {wheel.stat().st_size} bytes, more than {MAX_KERNELS_WHEEL}"
            )
    for package in PACKAGES:
        install_and_try(session, package, dist)


def install_and_try(session: nox.Session, package: str, dist: Path) -> None:
    environment = BUILD / "environments" / package
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wheels = [next(dist.glob(f"{name.replace('-', '_')}-*.whl")) for name in NEEDS[package]]
    session.run(
        "uv", "venv", "--quiet", "--clear", "--python", "3.11", str(environment), external=True
    )
    session.run(
        *("uv", "pip", "install", "--quiet", "--python", str(python)),
        *map(str, wheels),
        external=True,
    )
    session.run(str(python), "-c", SMOKE[package], env={"PYTHONPATH": ""}, external=True)
    shutil.rmtree(environment)
