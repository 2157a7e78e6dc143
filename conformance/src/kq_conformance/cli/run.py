"""`kq-conformance run`: ask a backend the cases."""

import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kq_conformance.bounds import Strictness
from kq_conformance.cases import Case, address
from kq_conformance.cli.app import FAILED, app, check_target, refuse, write_or_refuse
from kq_conformance.cli.listing import ProfileOption, SelectOption, chosen_cases
from kq_conformance.discovery import BackendError
from kq_conformance.explain import explain
from kq_conformance.pool import Description, Task, describe, run_tasks
from kq_conformance.report import Report, to_json
from kq_conformance.runner import Finding, Settings, Verdict
from kq_conformance.waivers import Waiver, load_waivers, waiver_state

__all__ = ["run"]

_SHOWN = 3  # failures that are explained in full; the rest are listed


@app.command()
def run(
    backend: Annotated[str, typer.Option(help="Entry-point name, or package.module:object.")],
    profile: ProfileOption = None,
    select_: SelectOption = "*",
    workers: Annotated[
        int, typer.Option("--workers", "-j", min=1, help="Processes that answer cases.")
    ] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds that a case may take.")] = 60.0,
    json_: Annotated[
        Path | None, typer.Option("--json", help="Write the report to this file.")
    ] = None,
    waivers: Annotated[
        Path | None, typer.Option(help="File of failures that are accepted, with their reasons.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Other random inputs for the same cases.")] = 0,
    rules: Annotated[
        str,
        typer.Option(help="exact: kq's own rules to the bit; margin: what third parties may do."),
    ] = "exact",
    device: Annotated[str, typer.Option(help="Device type of the tensors.")] = "cpu",
    probe: Annotated[bool, typer.Option(help="Also try what the backend has not declared.")] = True,
) -> None:
    """Ask a backend the cases; exit code 0 if none failed, 1 otherwise, 2 for a bad command.

    Every case runs in a worker process: a crash, an exit or a hang loses that case only.
    """
    settings = Settings(seed, _strictness(rules), device, probe)
    if not timeout > 0:
        refuse(f"--timeout must be a number of seconds above 0, got {timeout:g}")
    chosen, cases = chosen_cases(profile, select_)
    check_target("--json", json_)
    accepted = _waivers(waivers)
    described = _describe(backend, device, timeout)
    findings = _run_all(backend, cases, settings, workers, timeout)
    report = Report(
        backend,
        described,
        chosen,
        select_,
        settings,
        workers,
        timeout,
        findings,
        accepted,
        datetime.datetime.now(tz=datetime.UTC).date(),
    )
    _print(Console(soft_wrap=True, highlight=False), report)
    if json_ is not None:
        write_or_refuse(json_, to_json(report.to_dict()))
    if not report.passed:
        raise typer.Exit(FAILED)


def _strictness(rules: str) -> Strictness:
    try:
        return Strictness(rules)
    except ValueError:
        accepted = ", ".join(each.value for each in Strictness)
        refuse(f"--rules must be one of {accepted}, got {rules!r}")


def _waivers(path: Path | None) -> tuple[Waiver, ...]:
    try:
        return () if path is None else load_waivers(path)
    except ValueError as error:
        refuse(f"--waivers: {error}")


def _describe(backend: str, device: str, timeout: float) -> Description:
    try:
        return describe(backend, device, timeout)
    except (BackendError, ValueError) as error:
        refuse(str(error))


def _run_all(
    backend: str, cases: Sequence[Case], settings: Settings, workers: int, timeout: float
) -> list[Finding]:
    """The findings in the order of the cases."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    tasks = [Task(backend, case.id, settings) for case in cases]
    found: dict[str, Finding] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("cases", total=len(cases))
        for task, finding in run_tasks(tasks, workers, timeout):
            found[task.case_id] = finding
            progress.advance(bar)
    return [found[case.id] for case in cases]


def _print(console: Console, report: Report) -> None:
    """Failures first, the ones without a waiver before the others; then the summary."""
    bad = sorted(report.bad, key=lambda each: report.waiver(each) is not None)
    for finding in bad[:_SHOWN]:
        text = explain(report.backend, finding, report.settings, report.waiver(finding))
        console.print(text + "\n", markup=False)
    for finding in bad[_SHOWN:]:
        waived = "  (waived)" if report.waiver(finding) else ""
        console.print(f"{finding.verdict.upper()}  {finding.case_id}{waived}", markup=False)
    for waiver in report.waivers:
        state, cases = waiver_state(waiver, report.findings, report.date)
        console.print(f"waiver {waiver.select!r} is {state} ({cases} cases)", markup=False)
    console.print(_summary(report))
    unasked = Counter(
        each.message
        for each in report.findings
        if each.verdict is Verdict.UNSUPPORTED and each.message
    )
    for reason, count in unasked.items():
        console.print(f"{count} cases were not asked: {reason}", markup=False)
    words = ", ".join(f"{count} {name}" for name, count in report.counts.items() if count)
    kind = "certifies" if report.certifies else "does not certify"
    by = " with waivers" if report.certifies and report.waived else ""
    profile, name = report.profile.name.lower(), report.described.name
    console.print(f"{words}; profile {profile} {kind} {name}{by}", markup=False)


def _summary(report: Report) -> Table:
    shown = [verdict for verdict in Verdict if report.counts[verdict]]
    table = Table("operation", *map(str, shown), "worst error / bound")
    by_op: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_op.setdefault(address(finding.case_id).op, []).append(finding)
    for op, findings in by_op.items():
        counts = [sum(each.verdict is verdict for each in findings) for verdict in shown]
        worst = max(each.tightness for each in findings)
        table.add_row(op, *(str(count or "·") for count in counts), f"{worst:.3f}")
    return table
