"""OpenAPI 3.1 from the tables of routes and from the types that validate the requests.

Owns the form of the document: what OpenAPI calls things, which status a problem has, how a stream is described. The
sentences about fields are the ones that stand below them in the sources. Must not know any route.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from neuroshell_orch import __version__
from neuroshell_orch.api import openapi_ollama, openapi_orch, openapi_v1, openapi_v2
from neuroshell_orch.api.oip_body import HEADER
from neuroshell_orch.api.openapi_ollama import PlainError
from neuroshell_orch.api.openapi_parts import ALWAYS
from neuroshell_orch.api.openapi_v1 import OpenAIError
from neuroshell_orch.api.schema import Problem
from neuroshell_orch.errors import PROBLEMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from neuroshell_orch.api.openapi_parts import Operation

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
CONVENTIONS: Final[dict[str, tuple[str, list[Operation], type[msgspec.Struct]]]] = {
    "/v1": ("OpenAI", openapi_v1.OPERATIONS, OpenAIError),
    "/v2": ("Open Inference Protocol", openapi_v2.OPERATIONS, PlainError),
    "/api": ("Ollama", openapi_ollama.OPERATIONS, PlainError),
    "/orch": ("Status and control", openapi_orch.OPERATIONS, Problem),
}
"""Prefix → name, routes, and the form of errors. What has no such prefix answers errors as ``/orch`` does."""
PATH_PARAMETERS: Final = {
    "model": "The name of a registered model.",
    "version": "Every model has one version: 1.",
    "region": "The name of a region of shared memory.",
    "digest": "A digest.",
    "rest": "Anything.",
}
_REPLAY: Final = "A name for this request: sent once more with the same body, it is answered with the first answer."
_ABOUT: Final = (
    "The socket of nsorch speaks four conventions at once. Over the unix socket nobody needs a token: its owner is "
    "the user. Over the loopback port every request needs one (`nsorch token create NAME`). Every answer has the "
    "header `X-Request-Id`; a request may bring its own. An answer that can be had by trying again has `Retry-After`."
)


def operations() -> Iterator[tuple[str, Operation]]:
    """Every operation with the name of its convention."""
    for name, listed, _ in CONVENTIONS.values():
        for operation in listed:
            yield name, operation


def document() -> dict[str, Any]:
    """The whole description."""
    types = _types()
    shown, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(map(repr, types), shown, strict=True))
    for kind in _structs(types):
        _tell(components[kind.__name__], kind)
    paths: dict[str, dict[str, Any]] = {}
    for convention, operation in operations():
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(convention, operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nsorch",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [
            {"url": "http://localhost", "description": "The unix socket $XDG_RUNTIME_DIR/nsorch/api.sock"},
            {"url": "http://127.0.0.1:11430", "description": "The loopback port, where nsorch-http.socket is enabled"},
        ],
        "security": [{}, {"token": []}],
        "tags": [{"name": name} for name, *_ in CONVENTIONS.values()],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Needed over TCP only: `nsorch token create NAME`.",
                }
            },
        },
    }


# ---- operations ----


def error_of(path: str) -> type[msgspec.Struct]:
    """The form of errors on ``path``."""
    return next((error for prefix, (_, _, error) in CONVENTIONS.items() if path.startswith(prefix)), Problem)


def _described(convention: str, operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "tags": [convention],
        "summary": operation.summary,
        "operationId": re.sub(r"\W+", "_", f"{operation.method.lower()}{operation.path}").strip("_"),
        "responses": dict(_responses(operation, schemas)),
    }
    if operation.note:
        shown["description"] = operation.note
    if parameters := list(_parameters(operation)):
        shown["parameters"] = parameters
    if operation.body is not None:
        content: dict[str, Any] = {JSON: {"schema": schemas[repr(operation.body)]}}
        if operation.example is not None:
            content[JSON]["example"] = operation.example
        if operation.raw:
            content[BINARY] = {"schema": {"type": "string", "format": "binary", "description": operation.raw}}
        shown["requestBody"] = {"required": not operation.optional, "content": content}
    return shown


def _parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", operation.path):
        schema = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": schema, "description": PATH_PARAMETERS[name]}
    if operation.raw:
        yield _header(HEADER, {"type": "integer", "minimum": 0}, "The length of the JSON, where raw tensors follow it.")
    if operation.replays:
        yield _header("Idempotency-Key", {"type": "string", "pattern": "^[!-~]{1,255}$"}, _REPLAY)


def _header(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


def _responses(operation: Operation, schemas: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if not operation.never:
        success: dict[str, Any] = {"description": "Done.", "headers": {"X-Request-Id": {"schema": {"type": "string"}}}}
        if content := dict(_contents(operation, schemas)):
            success["content"] = content
        yield "200", success
    codes: dict[int, list[str]] = {}
    # What is in a path may make it another one.
    for code in sorted(operation.problems | ALWAYS | ({"not-found"} if "{" in operation.path else set())):
        codes.setdefault(PROBLEMS[code].status, []).append(code)
    for status in sorted(codes):
        names = codes[status]
        said: dict[str, Any] = {"description": f"Problem: {', '.join(f'`{name}`' for name in names)}."}
        if operation.method != "HEAD":
            said["content"] = {JSON: {"schema": schemas[repr(error_of(operation.path))]}}
        if any(PROBLEMS[name].retryable for name in names):
            said["headers"] = {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds."}}
        yield str(status), said


def _contents(operation: Operation, schemas: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if operation.answer is not None:
        yield JSON, {"schema": schemas[repr(operation.answer)]}
    if operation.stream is not None:
        # OpenAPI has no words for the parts of a stream before 3.2, whose name for their form this is. A `schema` would
        # be of the whole stream; programs that check streams take it for that of a part, so that there is none.
        yield operation.stream.media, {"x-itemSchema": schemas[repr(operation.stream.of)]}
    if operation.raw:
        yield BINARY, {"schema": {"type": "string", "format": "binary", "description": operation.raw}}
    if operation.plain:
        yield "text/plain", {"schema": {"type": "string", "const": operation.plain}}


# ---- types ----


def _types() -> list[Any]:
    found: dict[str, Any] = {repr(error): error for *_, error in CONVENTIONS.values()}
    for _, operation in operations():
        stream = operation.stream.of if operation.stream is not None else None
        for kind in (operation.body, operation.answer, stream):
            if kind is not None:
                found[repr(kind)] = kind
    return list(found.values())


def _structs(types: Iterable[Any]) -> set[type[msgspec.Struct]]:
    """Every struct that is reached from ``types``."""
    found: set[type[msgspec.Struct]] = set()
    left: list[Any] = list(msgspec.inspect.multi_type_info(types))
    while left:
        kind = left.pop()
        if isinstance(kind, msgspec.inspect.StructType):
            if kind.cls in found:
                continue
            found.add(kind.cls)
            left += [field.type for field in kind.fields]
        left += getattr(kind, "types", ())
        left += [
            part for name in ("item_type", "value_type", "type") if (part := getattr(kind, name, None)) is not None
        ]
    return found


def _tell(schema: dict[str, Any], kind: type[msgspec.Struct]) -> None:
    """Add the sentences of the sources to the schema of ``kind``."""
    said: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base is not msgspec.Struct and issubclass(base, msgspec.Struct):
            said |= _sentences(base.__module__).get(base.__name__, {})
    if "description" in schema:
        schema["description"] = _markdown(schema["description"])
    for field in msgspec.structs.fields(kind):
        if field.name in said:
            # A reference may have a description beside it.
            schema["properties"][field.encode_name]["description"] = _markdown(said[field.name])


@functools.cache
def _sentences(module: str) -> dict[str, dict[str, str]]:
    """Class → field → the text that stands below the field in the source of ``module``."""
    import sys  # noqa: PLC0415 - only here

    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = found.setdefault(node.name, {})
        for field, below in zip(node.body, node.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    fields[name] = inspect.cleandoc(text)
    return found


def _markdown(text: str) -> str:
    return " ".join(text.replace("``", "`").split())
