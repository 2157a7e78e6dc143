"""The command `kq-conformance`.

Exit code 0: every case passed or was not declared. 1: a case failed. 2: the command could not be
carried out as written.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kq_conformance import __version__
from kq_conformance.bounds import Strictness
from kq_conformance.cases import Case, Profile, select
from kq_conformance.discovery import BackendError, find_backend
from kq_conformance.report import Report, write_json
from kq_conformance.runner import Finding, Settings, Verdict, run_cases

__all__ = ["app", "main"]

_FAILED, _UNUSABLE = 1, 2
_SHOWN = 3  # failures that are explained in full; the rest are listed

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _refuse(message: str) -> NoReturn:
    """Say in one line what is wrong with the command, and leave with exit code 2."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {message}", markup=False)
    raise typer.Exit(_UNUSABLE)


def _chosen(profile: str | None, pattern: str) -> tuple[Profile, list[Case]]:
    """The profile (by default CORE, or FULL with a selection) and its cases."""
    names = [each.name.lower() for each in Profile]
    if profile is None:
        profile = "core" if pattern == "*" else "full"
    if profile not in names:
        _refuse(f"--profile must be one of {', '.join(names)}, got {profile!r}")
    chosen = Profile[profile.upper()]
    cases = list(select(chosen, pattern))
    if not cases:
        _refuse(f"--select {pattern!r} matches no case of the profile {profile!r}")
    return chosen, cases


def _strictness(rules: str) -> Strictness:
    try:
        return Strictness(rules)
    except ValueError:
        accepted = ", ".join(each.value for each in Strictness)
        _refuse(f"--rules must be one of {accepted}, got {rules!r}")


def _check_target(path: Path | None) -> None:
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        _refuse(f"--json must name a file in an existing folder, got {str(path)!r}")


def _subject(backend: Any, device: str) -> tuple[Any, dict[str, str]]:
    """The backend behind the adapter, and the versions of what the adapter runs on."""
    try:
        from kq_conformance.adapter import Adapter, torch_version
    except ImportError as error:
        _refuse(f"running a backend needs torch, which cannot be imported: {error}")
    try:
        return Adapter(backend, device), {"torch": torch_version()}
    except ValueError as error:
        _refuse(f"--{error}")


def _run_all(
    backend: Any, subject: Any, cases: Sequence[Case], settings: Settings
) -> list[Finding]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("cases", total=len(cases))
        findings = []
        for finding in run_cases(backend, subject, cases, settings):
            findings.append(finding)
            progress.advance(task)
    return findings


def _print_summary(console: Console, report: Report) -> None:
    shown = [verdict for verdict in Verdict if report.counts[verdict]]
    table = Table("operation", *map(str, shown), "worst error / bound")
    for op in dict.fromkeys(each.case.demand.op for each in report.findings):
        findings = [each for each in report.findings if each.case.demand.op == op]
        counts = [sum(each.verdict is verdict for each in findings) for verdict in shown]
        worst = max(each.tightness for each in findings)
        table.add_row(op, *(str(count or "·") for count in counts), f"{worst:.3f}")
    console.print(table)


@app.command()
def run(
    backend: Annotated[str, typer.Option(help="Entry-point name, or package.module:object.")],
    profile: Annotated[
        str | None, typer.Option(help="quick, core or full. [default: core; full with --select]")
    ] = None,
    select_: Annotated[str, typer.Option("--select", help="Glob over case ids.")] = "*",
    json_: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Other random inputs for the same cases.")] = 0,
    rules: Annotated[
        str,
        typer.Option(help="exact: kq's own rules to the bit; margin: what third parties may do."),
    ] = "exact",
    device: Annotated[str, typer.Option(help="Device type of the tensors.")] = "cpu",
    probe: Annotated[bool, typer.Option(help="Also try what the backend has not declared.")] = True,
) -> None:
    """Ask a backend the cases; exit code 0 if none failed, 1 otherwise, 2 for a bad command."""
    settings = Settings(seed, _strictness(rules), device, probe)
    chosen, cases = _chosen(profile, select_)
    _check_target(json_)
    try:
        found = find_backend(backend)
    except BackendError as error:
        _refuse(str(error))
    subject, environment = _subject(found, device)
    findings = _run_all(found, subject, cases, settings)
    described = {"name": found.name, "version": found.version, **found.describe()}
    report = Report(backend, described, environment, chosen, select_, settings, findings)

    console = Console(soft_wrap=True, highlight=False)
    bad = [each for each in findings if not each.verdict.acceptable]
    for finding in bad[:_SHOWN]:
        console.print(report.explain(finding) + "\n", markup=False)
    for finding in bad[_SHOWN:]:
        console.print(f"{finding.verdict.upper()}  {finding.case.id}", markup=False)
    _print_summary(console, report)
    words = ", ".join(f"{count} {name}" for name, count in report.counts.items() if count)
    kind = "certifies" if report.certifies else "does not certify"
    console.print(f"{words}; profile {chosen.name.lower()} {kind} {found.name}", markup=False)
    if json_ is not None:
        write_json(report.to_dict(), json_)
    if not report.passed:
        raise typer.Exit(_FAILED)


@app.command("list")
def list_(
    profile: Annotated[
        str | None, typer.Option(help="quick, core or full. [default: core; full with --select]")
    ] = None,
    select_: Annotated[str, typer.Option("--select", help="Glob over case ids.")] = "*",
) -> None:
    """Print the ids of the cases, one a line; needs no backend."""
    for case in _chosen(profile, select_)[1]:
        sys.stdout.write(case.id + "\n")


@app.command()
def version() -> None:
    """Print the version of the suite."""
    sys.stdout.write(__version__ + "\n")


def main() -> None:
    """Entry point of the command."""
    app()
