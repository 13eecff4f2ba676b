"""``/api/generate`` and ``/api/chat``: from a request to an answer, or to a model that is loaded or unloaded.

Owns what an empty prompt means: it loads the model, and with ``keep_alive`` 0 it unloads it, if that is the client's
to decide. Must not know fields (``ollama_request``) nor shapes of answers (``ollama_answer``).
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.api import keep_alive
from neuroshell_orch.api.ollama_answer import Job, respond, said_at_once
from neuroshell_orch.api.ollama_names import registered
from neuroshell_orch.api.ollama_request import Body, ChatBody, GenerateBody, Message, of_chat, of_generate
from neuroshell_orch.api.requests import read_json, while_connected
from neuroshell_orch.core.messages import AskOptions
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from neuroshell_orch.service import Service
    from neuroshell_orch.workers.protocol import Generate

_ANYTHING: Final = "anything"
"""What stands for the prompt where there is none: a request that only loads is held to the same rules."""


async def generate(request: Request) -> Response:
    """POST /api/generate."""
    body = await read_json(request, GenerateBody)
    empty = not body.prompt and not body.images
    wanted = of_generate(msgspec.structs.replace(body, prompt=_ANYTHING) if empty else body)
    return await _answer(request, body, None if empty else wanted, chat=False)


async def chat(request: Request) -> Response:
    """POST /api/chat."""
    body = await read_json(request, ChatBody)
    wanted = of_chat(body if body.messages else msgspec.structs.replace(body, messages=[Message("user", _ANYTHING)]))
    return await _answer(request, body, wanted if body.messages else None, chat=True)


async def _answer(request: Request, body: Body, wanted: Generate | None, *, chat: bool) -> Response:
    service: Service = request.app.state.service
    started = time.monotonic()
    options = AskOptions(keep_alive=keep_alive.seconds(body.keep_alive))
    model = registered(service, body.model)
    if wanted is not None or service.configuration.models[model].runtime != "encoder":  # which can be loaded as well
        service.require_runtime(model, "genai")
    await _check_think(service, model, body.think)
    job = Job(
        name=body.model or model,
        model=model,
        request=wanted,
        options=options,
        started=started,
        chat=chat,
        stream=body.stream is not False,
    )
    if wanted is not None:
        return await respond(request, service, job)
    if options.keep_alive == 0:
        _check_unload(service, model)
        await while_connected(request, service.unload(model))
        return said_at_once(job, "unload")
    await while_connected(request, service.preload(model, options))
    return said_at_once(job, "load")


def _check_unload(service: Service, model: str) -> None:
    """Raises OrchError where the service decides how long a model stays, and not its clients."""
    mode = service.configuration.mode_of(model)
    policy = service.configuration.settings.keep_alive_policy
    own = {"dynamic": 0.0, "persistent": math.inf}.get(mode.policy, mode.idle_sec)
    if policy == "server" or (policy == "max" and own > 0):
        raise OrchError(
            "not-allowed",
            f"KeepAlivePolicy={policy} leaves it to the service when {model} is unloaded.",
            f"Unload it yourself: nsorch model unload {model}",
        )


async def _check_think(service: Service, model: str, think: bool | str | None) -> None:
    """Raises OrchError unless the model does what is asked for already."""
    if think is None or think == "":
        return
    from neuroshell_orch.models.details import described  # noqa: PLC0415 - hardly any request has the field

    if think is not False:
        raise OrchError("unsupported", f"think: {model} cannot be told to think aloud.", "Leave it out, or say false.")
    if (await asyncio.to_thread(described, service.configuration.models[model].path)).thinks:
        raise OrchError("unsupported", f"think: {model} cannot be told not to think.", "Leave it out.")
