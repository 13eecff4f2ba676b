"""What a stream of server-sent events says while there is nothing to say yet: comments, which every client skips.

Owns how long is waited in silence (``ProgressSec=``) and the words. Until then whatever goes wrong has a status of its
own; afterwards the answer has begun, and a client that would take silence for death is told what is going on. Must not
know what is waited for, nor any event.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from neuroshell_orch.api.limits import IN_FORCE
from neuroshell_orch.api.requests import while_connected
from neuroshell_orch.core.lifecycle import Phase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

    from neuroshell_orch.service import Service

_WORDS = {
    Phase.PARKING: "loading",
    Phase.LOADING: "loading",
    Phase.WAKING: "waking",
}


async def shortly(request: Request, first: asyncio.Future[Any]) -> None:
    """Wait until ``first`` is done, or has taken so long that the answer should begin.

    Raises ClientGone, and what ``first`` raises.
    """
    await while_connected(request, _wait(first))
    if first.done():
        first.result()


async def _wait(first: asyncio.Future[Any]) -> None:
    await asyncio.wait({first}, timeout=IN_FORCE.get().progress_sec)


async def comments(first: asyncio.Future[Any], service: Service, model: str) -> AsyncGenerator[bytes, None]:
    """One comment each ``ProgressSec=`` until ``first`` is done. Closing it cancels ``first``."""
    every = IN_FORCE.get().progress_sec
    began = time.monotonic() - every
    try:
        while not first.done():
            record = service.engine.state.models.get(model)
            word = "waiting for" if record is None else _WORDS.get(record.phase, "waiting for")
            yield f": {word} {model}, {time.monotonic() - began:.0f} s\n\n".encode()
            await asyncio.wait({first}, timeout=every)
    finally:
        if not first.done():
            first.cancel()
            await asyncio.wait({first})
