"""Listening: connections from the activated sockets into the ASGI application.

Owns the accept loop, the count of open connections and their number at most. Accepting is done by hand, because an
idle exit must be able to stop it at an exact point: whatever is not accepted by then stays in systemd's backlog and is
served by the next process. The listening socket is never shut down and its path never unlinked: both belong to systemd.
What becomes of one connection is ``connection``'s business.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

from uvicorn.config import Config
from uvicorn.server import ServerState

from neuroshell_orch.api.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp

    from neuroshell_orch.config.schema import Settings

ACCEPT_AT_ONCE: Final = 64
"""Connections taken before other work gets its turn."""
SURPLUS: Final = 32
"""Connections above the most there may be that are open all the same, to be told so. More wait in the backlog."""


class Server:
    """Serves ``app`` on any number of listening sockets; ``clients`` hears how many connections are open."""

    def __init__(self, app: ASGIApp, clients: Callable[[int], None], settings: Callable[[], Settings]) -> None:
        self._config = Config(
            app, lifespan="off", log_config=None, access_log=False, proxy_headers=False, server_header=False, ws="none"
        )
        self._config.load()
        self._state = ServerState()
        self._state.default_headers = [(b"server", b"nsorch")]
        self._clients = clients
        self._settings = settings
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
        most = self._settings().max_connections + SURPLUS
        for _ in range(ACCEPT_AT_ONCE):
            if self.connections >= most:
                self._rest(listener)
                return
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # out of descriptors
                self._rest(listener)
                return
            self.take(connection)

    def take(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted. Owns it from now on."""
        connection.setblocking(False)
        surplus = self.connections >= self._settings().max_connections
        task = asyncio.get_running_loop().create_task(self._open(connection, surplus=surplus))
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _rest(self, listener: socket.socket) -> None:
        """Leave whoever comes in the backlog, and look again shortly."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(0.2, self._again, listener)

    def _again(self, listener: socket.socket) -> None:
        if self._accepting:
            self._watch(listener)

    async def _open(self, connection: socket.socket, *, surplus: bool) -> None:
        def protocol() -> Connection:
            return Connection(self._config, self._state, self._count, self._settings(), surplus=surplus)

        await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, OSError):
            raise error  # an OSError is a client that left before it was heard
        self._count()

    def _count(self) -> None:
        self._changed.set()
        self._clients(self.connections)
