"""The layout of `report.json` as a JSON Schema (draft 2020-12), for readers in any language."""

import json
from importlib.resources import files
from typing import Any

__all__ = ["report_schema", "report_schema_text"]

_FILE = "report-1.schema.json"  # the number is the schema version of the reports it describes


def report_schema_text() -> str:
    """The schema as it is shipped."""
    return files(__name__).joinpath(_FILE).read_text(encoding="utf-8")


def report_schema() -> dict[str, Any]:
    """The schema as a dictionary, for a validator such as `jsonschema`."""
    schema: dict[str, Any] = json.loads(report_schema_text())
    return schema
