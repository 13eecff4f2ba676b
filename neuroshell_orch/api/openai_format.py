"""``response_format``: the JSON schema that an answer is held to.

Owns the three forms of the field and the bounds of a schema. Must not know which keywords can be enforced: that is
the worker's to say, which refuses the others by name.
"""

from __future__ import annotations

import json
from typing import Any, Final

from neuroshell_orch.errors import OrchError

MAX_SCHEMA: Final = 256 << 10
"""Characters of one schema."""
MAX_DEPTH: Final = 64

_FORMS: Final = (
    'Use {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": {"schema": …}}.'
)


def schema_of(response_format: Any) -> str:  # noqa: ANN401 - JSON
    """The schema as JSON text; empty for plain text. Raises OrchError."""
    match response_format:
        case {"type": "text"}:
            return ""
        case {"type": "json_object"}:
            return '{"type": "object"}'
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return bounded(schema, "response_format.json_schema.schema")
        case {"type": "json_schema"}:
            raise OrchError("bad-request", "response_format.json_schema.schema is missing or not an object.", _FORMS)
        case _:
            raise OrchError("bad-request", "response_format has a form that is not known here.", _FORMS)


def bounded(value: object, where: str) -> str:
    """``value`` as JSON text. Raises OrchError where it is longer or deeper than a worker should have to read."""
    if depth(value) > MAX_DEPTH:
        raise OrchError("bad-request", f"{where} nests deeper than {MAX_DEPTH}.", "Use $defs and $ref.")
    text = json.dumps(value)
    if len(text) > MAX_SCHEMA:
        raise OrchError("bad-request", f"{where} is longer than {MAX_SCHEMA >> 10} KiB.", "Shorten it.")
    return text


def depth(value: object) -> int:
    """How deep a JSON value nests, without recursion."""
    deepest, level = 0, [value]
    while level:
        deepest += 1
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
        level = below
    return deepest
