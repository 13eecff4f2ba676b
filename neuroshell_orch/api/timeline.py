"""Where the time to the first token went, for who asks with a header: one comment in the stream before its end.

Owns the header and that comment, which every reader of server-sent events passes over. The instants are those of the
monotonic clock, which all processes of this machine share; there is no content in them. Must not know how they came
about.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from neuroshell_orch.api.problems import encode
from neuroshell_orch.marks import marks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

    from neuroshell_orch.service import Service

HEADER: Final = "x-nsorch-trace"
COMMENT: Final = b": timeline "
_DONE: Final = b"data: [DONE]"


def traced(
    request: Request, service: Service, model: str, asked: float, events: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """``events``, with the timeline before the end where the request wants it; it arrived when ``asked``."""
    if HEADER not in request.headers:
        return events
    return _traced(service, model, asked, events)


async def _traced(
    service: Service, model: str, asked: float, events: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    timeline: dict[str, dict[str, float]] = {}
    async with aclosing(events):
        async for event in events:
            if not timeline and event.startswith(b"data:"):
                loaded = service.loaded(model)  # it may be gone when the answer ends
                timeline["service"] = {**marks(), "asked": asked, "first": time.monotonic()}
                timeline["worker"] = {} if loaded is None else loaded.marks
            if event.startswith(_DONE):
                yield COMMENT + encode(timeline) + b"\n\n"
            yield event
