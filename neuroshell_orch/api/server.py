"""Listening: connections from the activated sockets into the ASGI application.

Owns the accept loop and the count of open connections. Accepting is done by hand, because an idle exit must be able
to stop it at an exact point: whatever is not accepted by then stays in systemd's backlog and is served by the next
process. The listening socket is never shut down and its path never unlinked: both belong to systemd. Parsing HTTP is
uvicorn's and httptools' work.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp

ACCEPT_AT_ONCE: Final = 64
"""Connections taken before other work gets its turn."""


class Server:
    """Serves ``app`` on any number of listening sockets; ``clients`` hears how many connections are open."""

    def __init__(self, app: ASGIApp, clients: Callable[[int], None]) -> None:
        self._config = Config(
            app, lifespan="off", log_config=None, access_log=False, proxy_headers=False, server_header=False, ws="none"
        )
        self._config.load()
        self._state = ServerState()
        self._state.default_headers = [(b"server", b"nsorch")]
        self._clients = clients
        self._listeners: list[socket.socket] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._accepting = False
        self._changed = asyncio.Event()

    @property
    def connections(self) -> int:
        """Connections that were accepted and are not closed."""
        return len(self._state.connections) + len(self._opening)

    def listen(self, listener: socket.socket) -> None:
        """Serve one more listening socket. Owns it from now on."""
        listener.setblocking(False)
        self._listeners.append(listener)
        if self._accepting:
            self._watch(listener)

    def resume(self) -> None:
        """Accept connections."""
        if not self._accepting:
            self._accepting = True
            for listener in self._listeners:
                self._watch(listener)

    def pause(self) -> None:
        """Accept nothing from this instant on; what is connected is served."""
        if not self._accepting:
            return
        self._accepting = False
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)

    async def close(self, grace: float) -> None:
        """Stop accepting, let requests end for ``grace`` seconds, then close what is left."""
        self.pause()
        if self._opening:
            await asyncio.wait(self._opening)
        for connection in list(self._state.connections):
            connection.shutdown()  # idle ones close at once, busy ones after their response
        try:
            async with asyncio.timeout(grace):
                while self._state.connections:
                    await self._changed.wait()
                    self._changed.clear()
        except TimeoutError:
            for connection in list(self._state.connections):
                transport: Any = connection.transport
                transport.abort()
        while self._state.tasks:
            await asyncio.wait(self._state.tasks)
        for listener in self._listeners:
            listener.close()

    def _watch(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPT_AT_ONCE):
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # out of descriptors: leave them in the backlog and look again shortly
                loop.remove_reader(listener)
                loop.call_later(0.2, self._again, listener)
                return
            connection.setblocking(False)
            task = loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _again(self, listener: socket.socket) -> None:
        if self._accepting:
            self._watch(listener)

    async def _open(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._protocol, connection)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, OSError):
            raise error  # an OSError is a client that left before it was heard
        self._count()

    def _count(self) -> None:
        self._changed.set()
        self._clients(self.connections)

    def _protocol(self) -> HttpToolsProtocol:
        return _Counted(self._config, self._state, self._count)


class _Counted(HttpToolsProtocol):
    """uvicorn's protocol, which also says when a connection comes and goes."""

    def __init__(self, config: Config, state: ServerState, count: Callable[[], None]) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self._count = count

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._count()
