"""What an answer may look like: the grammar that genai (llguidance inside it) holds the sampling to.

Owns the grammars for JSON answers and tool calls, the ways in which models write calls, and the sentence for a schema
that cannot be enforced. Must not know tokens, templates or how an answer is sampled.

White space between JSON's parts is fixed, as Python writes it: a small model likes to write it for ever, and
llguidance's own bound for it does not hold inside objects. Where the model may choose between text and calls, only a
call at the very beginning is held to its schema.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from neuroshell_orch.workers.protocol import Generate, Tools

_DATA: Final = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose values are no schemas."""
_WHITE_SPACE: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Style(NamedTuple):
    """How a model writes a call: what stands before and behind it, the key of its arguments, how other text begins."""

    before: str
    behind: str
    key: str
    text: str


TAGGED: Final = Style("<tool_call>\n", "\n</tool_call>", "arguments", r"/([^<]|<([^t]|t[^o]))(.|\n)*/")
BARE: Final = Style("", "", "parameters", r"/[^{](.|\n)*/")


class Guidance(NamedTuple):
    """Arguments of genai's ``set_guidance``."""

    kind: str
    grammar: str


def guidance(request: Generate, style: Style = TAGGED) -> Guidance | None:
    """What the answer to ``request`` is held to, or None where it is free."""
    if request.tools is not None:
        return Guidance("lark_grammar", _calls(request.tools, request.schema, style))
    if request.schema:
        return Guidance("json_schema", _bounded(json.loads(request.schema)))
    return None


def _bounded(schema: Any) -> str:  # noqa: ANN401 - JSON
    if schema is True:
        schema = {}
    if _counts_free_names(schema):
        raise OrchError(
            "unsupported",
            "This JSON schema cannot be enforced: minProperties above the number of required properties",
            "The grammar lets a name come twice, which counts once: name the properties and require them.",
        )
    if isinstance(schema, dict):  # the key at the root is an order to llguidance; never the client's
        schema = {**schema, "x-guidance": _WHITE_SPACE}
    return json.dumps(schema)


def _counts_free_names(schema: Any) -> bool:  # noqa: ANN401 - JSON
    if isinstance(schema, list):
        return any(_counts_free_names(item) for item in schema)
    if not isinstance(schema, dict):
        return False
    least, required = schema.get("minProperties"), schema.get("required")
    if isinstance(least, int | float) and least > max(1, len(required) if isinstance(required, list) else 0):
        return True
    return any(_counts_free_names(value) for key, value in schema.items() if key not in _DATA)


def _calls(tools: Tools, schema: str, style: Style) -> str:
    rules, names = [], []
    for number, function in enumerate(json.loads(tools.functions)):
        head = f'{{"name": {json.dumps(function["name"])}, "{style.key}": '
        rules.append(f"arguments{number}: %json {_bounded(function['parameters'])}")
        rules.append(
            f"call{number}: {json.dumps(style.before + head)} arguments{number} {json.dumps('}' + style.behind)}"
        )
        names.append(f"call{number}")
    more = f' ("\\n" call){{0,{tools.most - 1}}}' if tools.most > 1 else ""
    start = [f"call{more}"]
    if not tools.required:
        start.append(
            f"json\njson: %json {_bounded(json.loads(schema))}" if schema else f'TEXT | ""\nTEXT: {style.text}'
        )
    return "\n".join([f"start: {' | '.join(start)}", f"call: {' | '.join(names)}", *rules])


def refusal(error: RuntimeError) -> OrchError:
    """The sentence for a grammar that could not be made. It names keywords of the schema, never an answer."""
    reason = " ".join(str(error).split()).removeprefix("Error creating grammar: ")[:300]
    return OrchError(
        "unsupported",
        f"This JSON schema cannot be enforced: {reason}",
        "Leave that part out, or say it with: type, properties, required, additionalProperties, items, prefixItems, "
        "enum, const, anyOf, allOf, $ref, pattern, format, minLength, maxLength, minimum, maximum, minItems, maxItems.",
    )
