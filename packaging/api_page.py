"""``docs/api.md`` from the description that the daemon serves at ``/openapi.json``.

``api_page.py`` writes it. Owns its layout; what it says stands in ``neuroshell_orch/api/openapi_*`` and below the
fields of the types. A test fails while the page is not up to date.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroshell_orch.api.openapi_document import CONVENTIONS, document
from neuroshell_orch.api.openapi_parts import ALWAYS, ASK
from neuroshell_orch.errors import PROBLEMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neuroshell_orch.api.openapi_parts import Operation

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
SOCKET = "$XDG_RUNTIME_DIR/nsorch/api.sock"
INTRODUCTION = f"""\
# The API

Made by `packaging/api_page.py` from the types that validate the requests; the running service has it as OpenAPI 3.1 at
`/openapi.json`.

Four conventions share one socket. Over the unix socket `{SOCKET}` nobody needs a token: its owner
is the user. Over the loopback port (`nsorch-http.socket`, 127.0.0.1:11430) every request has `Authorization: Bearer …`,
from `nsorch token create NAME`. Every answer has the header `X-Request-Id`; a request may bring its own. Where trying
again can help, there is `Retry-After`. The examples below begin with

```sh
S="{SOCKET}"
```
"""


def page() -> str:
    """The whole page."""
    described = document()
    schemas = described["components"]["schemas"]
    parts = [INTRODUCTION]
    inline: set[str] = set()
    for prefix, (name, operations, error) in CONVENTIONS.items():
        parts.append(f"## {name}: `{prefix}`\n\nErrors are [{error.__name__}](#{error.__name__.lower()}).\n")
        if any("{version}" in operation.path for operation in operations):
            parts.append("`/versions/1` may stand behind a model's name.\n")
        for operation in operations:
            if "{version}" in operation.path:
                continue
            shown = described["paths"][operation.path][operation.method.lower()]
            parts.append("\n".join(_operation(operation, shown, schemas, inline)))
    parts.append(_problems())
    parts.append("## Types\n")
    asked = _reached(inline, schemas)
    left = [name for name in sorted(schemas) if name not in inline]
    parts += ["\n".join(_type(name, schemas[name], asked=name in asked)) for name in left]
    return "\n".join(parts)


def _operation(operation: Operation, shown: dict[str, Any], schemas: dict[str, Any], inline: set[str]) -> Iterator[str]:
    yield f"### `{operation.method} {operation.path}`\n"
    yield _wrapped(f"{operation.summary}.{' ' + operation.note if operation.note else ''}")
    if operation.never:
        return
    if operation.example is not None:
        yield f"```sh\n{_curl(operation)}\n```\n"
    if operation.body is not None:
        name = operation.body.__name__
        if name in inline:
            yield "Fields: as above.\n"
        else:
            inline.add(name)
            yield from _fields(schemas[name])
    headers = [
        f"`{given['name']}`: {given['description']}" for given in shown.get("parameters", []) if given["in"] == "header"
    ]
    if headers:
        yield _wrapped(f"Headers: {' '.join(headers)}")
    yield f"Answers {_answer(operation, shown)}\n"
    problems = sorted(operation.problems - ALWAYS - (ASK if operation.problems >= ASK else set()))
    said = [f"`{problem}`" for problem in problems]
    if operation.problems >= ASK:
        said.insert(0, "[those of every ask](#problems)")
    if said:
        yield _wrapped(f"Problems: {', '.join(said)}.")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


def _answer(operation: Operation, shown: dict[str, Any]) -> str:
    said = []
    for media, content in shown["responses"]["200"].get("content", {}).items():
        if media == "application/octet-stream":
            said.append(f"or in binary form ({media})")
        elif media == "application/json":
            said.append(_kind(content["schema"]))
        elif "x-itemSchema" in content:
            said.append(f"{'or ' if said else ''}a stream of {_kind(content['x-itemSchema'])} ({media})")
        else:
            said.append(f"the text `{operation.plain}`")
    return (", ".join(said) or "with an empty body") + "."


def _curl(operation: Operation) -> str:
    model = "digits" if operation.path.startswith("/v2") else "smollm2-135m"
    path = operation.path.format(model=model, region="mine")
    method = "" if operation.method == "POST" and operation.example is not None else f" -X {operation.method}"
    body = json.dumps(operation.example, ensure_ascii=False)
    buffer = " -N" if operation.stream is not None else ""
    return f"curl{buffer} --unix-socket \"$S\"{method} http://localhost{path} -d '{body}'"


def _problems() -> str:
    always = ", ".join(f"`{code}`" for code in sorted(ALWAYS))
    asked = ", ".join(f"`{code}`" for code in sorted(ASK))
    lines = ["## Problems\n", _wrapped(f"Any request may be told {always}."), _wrapped(f"An ask may be told {asked}.")]
    lines += ["| problem | status | trying again can help |", "|---|---|---|"]
    lines += [f"| `{code}` | {kind.status} | {'yes' if kind.retryable else ''} |" for code, kind in PROBLEMS.items()]
    return "\n".join([*lines, ""])


def _reached(names: set[str], schemas: dict[str, Any]) -> set[str]:
    """The types that ``names`` are made of."""
    found, left = set(names), list(names)
    while left:
        inner = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(schemas[left.pop()]))) - found
        found |= inner
        left += inner
    return found


def _type(name: str, schema: dict[str, Any], *, asked: bool) -> Iterator[str]:
    yield f"### {name}\n"
    yield f"{schema['description']}\n"
    if schema["properties"]:
        yield from _fields(schema) if asked else _told(schema)


def _told(schema: dict[str, Any]) -> Iterator[str]:
    """The fields of an answer."""
    yield "| field | type | | |"
    yield "|---|---|---|---|"
    for name, field in schema["properties"].items():
        always = name in schema["required"] or "default" in field
        null = " or null" if {"type": "null"} in field.get("anyOf", []) else ""
        when = "" if always else "not always there"
        yield f"| `{name}` | {_kind(field)}{null} | {when} | {_cell(field.get('description', ''))} |"
    yield ""


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    """The fields of a request."""
    yield "| field | type | default | |"
    yield "|---|---|---|---|"
    needs = set(schema["required"])
    for name, field in sorted(schema["properties"].items(), key=lambda item: item[0] not in needs):
        default = "" if field.get("default") is None else f"`{json.dumps(field['default'])}`"
        needed = "needed" if name in needs and "default" not in field else default
        yield f"| `{name}` | {_kind(field)} | {needed} | {_cell(field.get('description', ''))} |"
    yield ""


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        if len(values) < 10:
            return ", ".join(f"`{value}`" for value in values if value is not None)
    if "anyOf" in schema:
        said = [_kind(one) for one in schema["anyOf"] if one != {"type": "null"}]
        if {"integer", "number"} <= set(said):
            said.remove("integer")
        return " or ".join(said) + _bounds(schema)
    match schema.get("type"):
        case "array":
            kind = _kind(schema["items"]) if schema.get("items") else ""
            return f"list of ({kind})" if " or " in kind else f"list of {kind}" if kind else "list"
        case "object":
            values = schema.get("additionalProperties")
            return f"object of {_kind(values)}" if isinstance(values, dict) and values else "object"
        case list() as kinds:
            return " or ".join(kind for kind in kinds if kind != "null") + _bounds(schema)
        case str(kind):
            return kind + _bounds(schema)
        case _:
            return "any"


def _bounds(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None:
        return ""
    return f", {low} or more" if high is None or high > 1 << 53 else f", {low} to {high}"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("|", "\\|"))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
