"""``/api/embed``, and ``/api/embeddings`` as older clients call it: texts as vectors.

Owns the fields of those requests and the shapes of their answers; no text at all loads the model. Must not know how a
text becomes a vector.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec

from neuroshell_orch.api import keep_alive, ollama_options
from neuroshell_orch.api.embeddings_answer import MAX_INPUTS, floats
from neuroshell_orch.api.ollama_answer import nanoseconds
from neuroshell_orch.api.ollama_names import registered
from neuroshell_orch.api.openai_request import between, text_of
from neuroshell_orch.api.problems import json_response
from neuroshell_orch.api.requests import read_json, while_connected
from neuroshell_orch.core.messages import AskOptions
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Embed

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from neuroshell_orch.service import Service


class Body(msgspec.Struct, kw_only=True):
    """What both requests have in common."""

    model: str | None = None
    """A registered encoder, with or without a tag. Needed."""
    keep_alive: int | float | str | None = None
    """``"10m"``, seconds, negative for ever, 0 for gone after the answer."""
    options: dict[str, Any] | None = None
    """Only ``num_ctx`` matters, and it cannot be less than what the model reads."""


class EmbedBody(Body, kw_only=True):
    """Body of POST /api/embed."""

    input: str | list[str] | None = None
    """A text or several."""
    truncate: bool | None = None
    """False: a text that is longer than the model reads is an error."""
    dimensions: Annotated[int | None, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": 1 << 16})] = None
    """Shorter vectors, where the model was made for that."""


class OldBody(Body, kw_only=True):
    """Body of POST /api/embeddings."""

    prompt: str | None = None


class _Made(NamedTuple):
    vectors: list[tuple[float, ...]]
    tokens: int
    loaded: float
    """Seconds."""


async def embed(request: Request) -> Response:
    """POST /api/embed."""
    started = time.monotonic()
    body = await read_json(request, EmbedBody)
    texts = [body.input] if isinstance(body.input, str) and body.input else list(body.input or [])
    between("the number of texts in input", len(texts), 0, MAX_INPUTS)
    between("dimensions", body.dimensions, 0, 1 << 16)
    wanted = Embed(
        job=0,
        inputs=[text_of(text, f"input[{index}]") for index, text in enumerate(texts)],
        dimensions=body.dimensions or 0,
        truncate=body.truncate is not False,
    )
    made = await _made(request, body, wanted)
    return json_response(
        {
            "model": body.model,
            "embeddings": made.vectors,
            "total_duration": nanoseconds(time.monotonic() - started),
            "load_duration": nanoseconds(made.loaded),
            "prompt_eval_count": made.tokens,
        }
    )


async def embeddings(request: Request) -> Response:
    """POST /api/embeddings."""
    body = await read_json(request, OldBody)
    texts: list[str | list[int]] = [text_of(body.prompt, "prompt")] if body.prompt else []
    made = await _made(request, body, Embed(job=0, inputs=texts))
    return json_response({"embedding": made.vectors[0] if made.vectors else []})


async def _made(request: Request, body: Body, wanted: Embed) -> _Made:
    service: Service = request.app.state.service
    model = registered(service, body.model)
    service.require_runtime(model, "encoder")
    # How tokens are chosen is of no use here, so that no other option can be refused.
    bound = ollama_options.read({"num_ctx": (body.options or {}).get("num_ctx")}).context
    options = AskOptions(keep_alive=keep_alive.seconds(body.keep_alive))
    loaded_before = service.loaded(model) is not None
    if not wanted.inputs:
        await while_connected(request, service.preload(model, options))
        return _Made([], 0, _load_seconds(service, model, before=loaded_before))
    answer = await while_connected(request, service.desk.embed(model, wanted, options))
    loaded = service.loaded(model)
    if 0 < bound < answer.tokens and (loaded is None or bound < loaded.context_length):
        message = f"Not supported: options.num_ctx below what {model} reads of a text."
        raise OrchError("unsupported", message, "Leave it out.")
    return _Made(
        list(floats(answer)),
        answer.tokens,
        _load_seconds(service, model, before=loaded_before),
    )


def _load_seconds(service: Service, model: str, *, before: bool) -> float:
    return 0.0 if before else service.load_seconds(model) or 0.0
