"""`kq-conformance list` and `version`, and the choice of cases that commands share."""

import sys
from typing import Annotated

import typer

from kq_conformance import __version__
from kq_conformance.cases import Case, Profile, select
from kq_conformance.cli.app import app, refuse

__all__ = ["ProfileOption", "SelectOption", "chosen_cases", "list_", "version"]

ProfileOption = Annotated[
    str | None, typer.Option(help="quick, core or full. [default: core; full with --select]")
]
SelectOption = Annotated[str, typer.Option("--select", help="Glob over case ids.")]


def chosen_cases(profile: str | None, pattern: str) -> tuple[Profile, list[Case]]:
    """The profile (by default CORE, or FULL with a selection) and its cases."""
    names = [each.name.lower() for each in Profile]
    if profile is None:
        profile = "core" if pattern == "*" else "full"
    if profile not in names:
        refuse(f"--profile must be one of {', '.join(names)}, got {profile!r}")
    chosen = Profile[profile.upper()]
    cases = list(select(chosen, pattern))
    if not cases:
        refuse(f"--select {pattern!r} matches no case of the profile {profile!r}")
    return chosen, cases


@app.command("list")
def list_(profile: ProfileOption = None, select_: SelectOption = "*") -> None:
    """Print the ids of the cases, one a line; needs no backend."""
    for case in chosen_cases(profile, select_)[1]:
        sys.stdout.write(case.id + "\n")


@app.command()
def version() -> None:
    """Print the version of the suite."""
    sys.stdout.write(__version__ + "\n")
