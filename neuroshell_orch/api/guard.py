"""Who may call over TCP: programs of this machine that have a token, and no web page that nobody allowed.

Owns the checks of Host and Origin that keep DNS rebinding and a browser's pages out, the answers that let pages of
``AllowOrigins=`` in, and the reading of the bearer token, which may be for some models only. A unix socket needs none
of it: only its owner can open it. Must not know what a request is for, nor how tokens are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from neuroshell_orch.api.limits import CLIENT
from neuroshell_orch.api.problems import problem_response
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from neuroshell_orch.api.tokens import Token, Tokens

LOCAL_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
REALM: Final = 'Bearer realm="nsorch"'
_METHODS: Final = b"GET, HEAD, POST, PUT, DELETE"
_MAX_AGE: Final = b"600"
_NARROWED: Final = 32
"""Applications for tokens of some models that are kept."""


class Guard:
    """ASGI middleware. Requests over a unix socket pass; others need a token and an honest Host.

    ``narrowed`` makes the application for tokens of some models; ``origins`` says whose web pages are let in.
    """

    def __init__(
        self,
        app: ASGIApp,
        narrowed: Callable[[frozenset[str]], ASGIApp],
        origins: Callable[[], Collection[str]],
    ) -> None:
        self._app = app
        self._narrowed = narrowed
        self._origins = origins
        self._apps: dict[frozenset[str], ASGIApp] = {}
        self._tokens: Tokens | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        # uvicorn gives a port only for TCP: a unix socket's server is its path.
        if scope["type"] != "http" or scope.get("server") is None or scope["server"][1] is None:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            origin = self._origin(headers)
        except OrchError as error:
            await problem_response(scope["path"], error)(scope, receive, send)
            return
        if origin is not None:
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await _preflight(origin, headers, send)
                return
            send = _readable_by(origin, send)
        try:
            token = self._token(headers)
        except OrchError as error:
            response = problem_response(scope["path"], error)
            if error.problem == "unauthorized":
                sent = b"authorization" in headers
                response.headers["WWW-Authenticate"] = f'{REALM}, error="invalid_token"' if sent else REALM
            await response(scope, receive, send)
            return
        scope[CLIENT] = f"token {token.name}"
        await self._app_of(token)(scope, receive, send)

    def _origin(self, headers: dict[bytes, bytes]) -> bytes | None:
        """The web page's origin, if it is one that may call. Raises OrchError for others, and for a false Host."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name not in LOCAL_NAMES:
            raise OrchError("not-allowed", "The Host header does not name this machine.", "Use http://127.0.0.1:11430.")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") not in self._origins():
            hint = "Call it from a program, or name the page's origin in AllowOrigins= in nsorch.conf."
            raise OrchError("not-allowed", "Requests from this web page are not taken.", hint)
        return origin

    def _token(self, headers: dict[bytes, bytes]) -> Token:
        """The token that the request has. Raises OrchError."""
        if self._tokens is None:
            from neuroshell_orch.api.tokens import Tokens  # noqa: PLC0415 - most daemons never hear of TCP

            self._tokens = Tokens()
        scheme, _, given = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        token = self._tokens.find(given.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            make = "" if self._tokens.any else " There is none yet."
            hint = f"Send 'Authorization: Bearer …' with one of: nsorch token create NAME.{make}"
            raise OrchError("unauthorized", "The token is missing or wrong.", hint)
        import time  # noqa: PLC0415 - likewise

        if token.expired(time.time()):
            hint = f"Make a new one: nsorch token revoke {token.name}; nsorch token create {token.name}"
            raise OrchError("unauthorized", f"The token {token.name} has expired.", hint)
        self._tokens.note_use(token)
        return token

    def _app_of(self, token: Token) -> ASGIApp:
        if token.models is None:
            return self._app
        models = frozenset(token.models)
        if models not in self._apps:
            if len(self._apps) >= _NARROWED:
                self._apps.clear()
            self._apps[models] = self._narrowed(models)
        return self._apps[models]


def _readable_by(origin: bytes, send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            exposed = b"Retry-After, X-Request-Id, WWW-Authenticate, Inference-Header-Content-Length"
            more = [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", exposed),
                (b"vary", b"Origin"),
            ]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sent


async def _preflight(origin: bytes, headers: dict[bytes, bytes], send: Send) -> None:
    """A browser asks whether its page may call; it sends no token with that."""
    answer = [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-max-age", _MAX_AGE),
        (b"vary", b"Origin, Access-Control-Request-Headers"),
    ]
    asked = headers.get(b"access-control-request-headers")
    if asked is not None:
        answer.append((b"access-control-allow-headers", asked))
    if headers.get(b"access-control-request-private-network") == b"true":
        answer.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": answer})
    await send({"type": "http.response.body", "body": b""})
