"""The layout of `report.json` as a JSON Schema (draft 2020-12), for readers in any language."""

import json
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

__all__ = ["report_schema", "report_schema_text", "report_validator"]

_FILE = "report-1.schema.json"  # the number is the schema version of the reports it describes


def report_schema_text() -> str:
    """The schema as it is shipped."""
    return files(__name__).joinpath(_FILE).read_text(encoding="utf-8")


def report_schema() -> dict[str, Any]:
    """The schema as a dictionary, for a validator such as `jsonschema`."""
    schema: dict[str, Any] = json.loads(report_schema_text())
    return schema


def report_validator() -> Any:
    """A validator that says the same as the schema, in half the time: nothing is looked up."""
    schema = report_schema()
    definitions = schema.pop("$defs")
    del schema["$id"]  # each mention of which would be resolved, too
    return Draft202012Validator(_without_references(schema, definitions))


def _without_references(part: Any, definitions: dict[str, Any]) -> Any:
    """A part of a schema with definitions in the place of their names; none may hold itself."""
    if isinstance(part, list):
        return [_without_references(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    own = {key: _without_references(x, definitions) for key, x in part.items() if key != "$ref"}
    if "$ref" not in part:
        return own
    named = definitions[part["$ref"].removeprefix("#/$defs/")]
    return _without_references(named, definitions) | own
