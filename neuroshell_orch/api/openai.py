"""``/v1``: OpenAI's convention: chats, raw completions and the list of models, streaming and not.

Owns the routes. The fields of requests are in ``openai_request`` and ``openai_text``, ``response_format`` and tools in
modules of their own that only requests with such fields load, the response in ``openai_answer``. Must not know how an
answer is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from neuroshell_orch.api.openai_answer import Job, respond
from neuroshell_orch.api.openai_request import ChatRequest, ask_options, chat_request, several
from neuroshell_orch.api.openai_voices import ChatVoice
from neuroshell_orch.api.problems import json_response
from neuroshell_orch.api.requests import read_json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from neuroshell_orch.service import Service
    from neuroshell_orch.workers.protocol import Generate


async def chat(request: Request) -> Response:
    """POST /v1/chat/completions."""
    service: Service = request.app.state.service
    wanted = await read_json(request, ChatRequest)
    generate = chat_request(wanted)
    options = ask_options(wanted)
    model = service.resolve(wanted.model)
    service.require_runtime(model, "genai")
    count = wanted.n or 1
    job = Job(
        model=model,
        requests=several(generate, count),
        voices=[_voice(generate) for _ in range(count)],
        options=options,
        each=count,
        stream=bool(wanted.stream),
        usage=wanted.stream_options is not None and wanted.stream_options.include_usage,
    )
    return await respond(request, service, job)


def _voice(generate: Generate) -> ChatVoice:
    if generate.tools is None:
        return ChatVoice(is_json=bool(generate.schema))
    from neuroshell_orch.api.openai_tools import CallReader  # noqa: PLC0415 - most chats have no tools

    return ChatVoice(CallReader(generate.tools), is_json=bool(generate.schema))


async def completions(request: Request) -> Response:
    """POST /v1/completions."""
    from neuroshell_orch.api.openai_text import TextRequest, text_job  # noqa: PLC0415 - chats do not need it

    service: Service = request.app.state.service
    wanted = await read_json(request, TextRequest)
    model = service.resolve(wanted.model)
    service.require_runtime(model, "genai")
    return await respond(request, service, text_job(wanted, model))


def _described(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(service.started), "owned_by": "nsorch"}


async def models(request: Request) -> Response:
    """GET /v1/models."""
    service: Service = request.app.state.service
    return json_response(
        {"object": "list", "data": [_described(service, name) for name in service.configuration.models]}
    )


async def model(request: Request) -> Response:
    """GET /v1/models/{model}."""
    service: Service = request.app.state.service
    return json_response(_described(service, service.resolve(request.path_params["model"])))


routes = [
    Route("/v1/chat/completions", chat, methods=["POST"]),
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/models", models),
    Route("/v1/models/{model}", model),
]
