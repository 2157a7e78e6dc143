"""`kq-conformance schema`: the layout of a report."""

import sys

from kq_conformance.cli.app import app
from kq_conformance.schema import report_schema_text

__all__ = ["schema"]


@app.command()
def schema() -> None:
    """Print the JSON Schema that reports follow."""
    sys.stdout.write(report_schema_text())
