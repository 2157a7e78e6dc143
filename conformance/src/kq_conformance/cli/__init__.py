"""The command line; see `kq_conformance.cli.app`."""

from kq_conformance.cli import diff as diff
from kq_conformance.cli import listing as listing
from kq_conformance.cli import mutants as mutants
from kq_conformance.cli import render as render
from kq_conformance.cli import run as run
from kq_conformance.cli import schema as schema
from kq_conformance.cli import support as support
from kq_conformance.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the command."""
    app()
