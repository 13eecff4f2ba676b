"""``Idempotency-Key``: a request that is sent twice with one key is answered once.

Owns what two requests with one key have to do with each other. While the first one runs the second one joins it, see
``joined``. Afterwards, and after a restart, the answer is repeated from what ``answers`` keeps. Only what went well is
kept, what failed is tried again. A key belongs to its token, or to the owner of the unix socket. Must not know what is
asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import TYPE_CHECKING, Final

from starlette.requests import ClientDisconnect, Request

from neuroshell_orch.api.answers import Answers
from neuroshell_orch.api.joined import Run
from neuroshell_orch.api.limits import CLIENT, IN_FORCE, PRESENCE
from neuroshell_orch.api.problems import problem_response
from neuroshell_orch.api.requests import pieces
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

HEADER: Final = b"idempotency-key"
ASKING: Final = re.compile(
    r"/v1/(chat/completions|completions|embeddings)|/v2/models/[^/]+(/versions/[^/]+)?/infer"
    r"|/api/(generate|chat|embed|embeddings)"
)
"""Where a model is asked. Other requests may be repeated without harm, or last as long as their connection."""
_KEY: Final = re.compile(rb"[!-~]{1,255}")
_MEANING: Final = (b"content-type", b"content-encoding", b"inference-header-content-length")
"""Headers that say what a body is."""
_DAY: Final = 86400.0


class Idempotent:
    """All requests with keys; ``folder`` is where answers are kept."""

    def __init__(self, folder: Path) -> None:
        self._answers = Answers(folder)
        self._runs: dict[str, Run] = {}
        self._timer: asyncio.TimerHandle | None = None

    def sweep(self, keep: float) -> None:
        """Remove old answers, now and when the next ones are old."""
        self._timer = None
        left = self._answers.sweep(keep)
        if left and keep < _DAY:
            self._timer = asyncio.get_running_loop().call_later(keep + 1, self.sweep, keep)

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """One request that has a key."""
        if scope["method"] != "POST" or ASKING.fullmatch(scope["path"]) is None:
            await app(scope, receive, send)
            return
        try:
            name = _name(scope)
            body = await _body(scope, receive)
            asked = _digest(scope, body)
            run = await self._find(name, asked, app, scope, body)
        except ClientDisconnect:
            return
        except OrchError as error:
            await problem_response(scope["path"], error)(scope, receive, send)
            return
        await run.follow(receive, send)

    async def _find(self, name: str, asked: bytes, app: ASGIApp, scope: Scope, body: bytes) -> Run:
        """The run that answers: one under way, one that is over, or a new one. Raises OrchError."""
        keep = IN_FORCE.get().keep_answers_sec
        while (run := self._runs.get(name)) is not None and run.left:
            await run.wait()  # nobody listened to the end, so there is no answer that could be joined
        if run is not None:
            if run.asked != asked:
                raise _reused()
            if not run.whole:
                hint = "Send it without the key, or wait for the first one."
                raise OrchError("key-reused", "The answer under way is too long to be told twice.", hint)
            return run
        kept = self._answers.find(name, keep)
        if kept is not None:
            if kept.asked != asked:
                raise _reused()
            return Run.over(asked, kept.head, kept.body)
        scope.pop(PRESENCE, None)  # a run ends when nobody listens any more, not when the first one leaves
        run = Run(asked)
        run.task = asyncio.create_task(self._run(run, name, keep, app, scope, body))
        self._runs[name] = run
        return run

    async def _run(self, run: Run, name: str, keep: float, app: ASGIApp, scope: Scope, body: bytes) -> None:
        def keep_it() -> None:
            if keep:
                self._answers.put(name, run.asked, run.head, b"".join(run.chunks), keep)
                if self._timer is None:
                    self.sweep(keep)

        try:
            await app(scope, run.source(body), run.sink(keep_it))
        finally:
            del self._runs[name]
            run.end()


def _name(scope: Scope) -> str:
    """Under which the answer is known. Raises OrchError."""
    key = next(value for name, value in scope["headers"] if name == HEADER)
    if _KEY.fullmatch(key) is None:
        raise OrchError("bad-request", "The Idempotency-Key must be 1 to 255 visible ASCII characters.", "")
    client: str = scope.get(CLIENT, "")
    who = client if client.startswith("token ") else ""
    return hashlib.sha256(who.encode() + b"\0" + key).hexdigest()


async def _body(scope: Scope, receive: Receive) -> bytes:
    settings = IN_FORCE.get()
    tensors = scope["path"].startswith("/v2")
    limit, key = (settings.max_tensor_body, "MaxTensorBody") if tensors else (settings.max_body, "MaxBody")
    return b"".join([piece async for piece in pieces(Request(scope, receive), limit, key)])


def _digest(scope: Scope, body: bytes) -> bytes:
    meaning = [(name, value) for name, value in scope["headers"] if name in _MEANING]
    about = repr((scope["method"], scope["path"], scope["query_string"], meaning)).encode()
    return hashlib.sha256(hashlib.sha256(about).digest() + body).digest()


def _reused() -> OrchError:
    hint = "Make a new key for each request; only a repetition has the old one."
    return OrchError("key-reused", "This Idempotency-Key was used for another request.", hint)
