"""An errand: a module of ours that runs beside the daemon for a while, outside of its sandbox, and says lines.

The daemon cannot open a connection, and what it starts inherits that. So an errand is a transient service of the user
manager with a sandbox of its own, in which there is a network and a few folders to write to; where there is no user
manager, it is a child process. Owns the unit, the start, the lines and the end: when the errand is given up, its
socket is closed, which it takes as the wish to leave. Must not know what an errand is for.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.bare import child_process
from neuroshell_orch.workers.environment import worker_environment
from neuroshell_orch.workers.spawn import ChildHandle
from neuroshell_orch.workers.unit import LIMITS, SANDBOX, SLICE, acceptable_environment

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from neuroshell_orch.workers.contract import Exit, Handle
    from neuroshell_orch.workers.unit import Property

_OPENED: Final = frozenset({"PrivateNetwork", "PrivateIPC", "RestrictAddressFamilies"})
"""What a worker's sandbox has and an errand's has not: there is a network, and names are looked up over netlink."""
_LEAVE_SECONDS: Final = 5.0
"""How long an errand may take to clean up."""

_numbers = itertools.count(1)


class Errand(msgspec.Struct, frozen=True):
    """What is wanted: ``module`` is run with ``arguments``; ``writes`` are the folders that it may write to.

    ``name`` is of letters, digits and dashes, and part of the unit's; ``description`` is for people.
    """

    name: str
    description: str
    module: str
    arguments: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """What is executed."""
        return [sys.executable, "-P", "-m", self.module, *self.arguments]


class Running:
    """An errand under way."""

    def __init__(self, handle: Handle, reader: asyncio.StreamReader) -> None:
        self._handle = handle
        self._reader = reader

    @property
    def unit(self) -> str | None:
        """Its systemd unit, or None where it is a child process."""
        return self._handle.unit

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """What it says, until it says no more. Raises OrchError for a line that never ends."""
        while True:
            try:
                line = await self._reader.readline()
            except ValueError:
                raise OrchError("internal", "An errand said a line that is too long.", "Report this.") from None
            except ConnectionResetError:
                return
            if not line:
                return
            yield line

    async def ended(self) -> Exit:
        """How it ended."""
        return await asyncio.shield(self._handle.exited)


@asynccontextmanager
async def sent(errand: Errand, kind: str, max_line: int) -> AsyncGenerator[Running, None]:
    """``errand`` while it runs; ``kind`` is ``systemd`` or ``child``. At the end it is gone, done or not.

    Raises OrchError where it cannot be started.
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            handle, close = await _start(errand, kind, theirs)
    except BaseException:
        ours.close()
        raise
    try:
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=max_line)
        try:
            yield Running(handle, reader)
        finally:
            writer.close()
            await _end(handle)
    finally:
        close()


async def _end(handle: Handle) -> None:
    done, _ = await asyncio.wait({handle.exited}, timeout=_LEAVE_SECONDS)
    if not done:
        handle.kill()
        await asyncio.wait({handle.exited})


async def _start(errand: Errand, kind: str, stdin: socket.socket) -> tuple[Handle, Callable[[], None]]:
    """A handle, and what is to be closed at the end."""
    environment = worker_environment(os.environ, {})
    if kind == "systemd":
        return await _start_unit(errand, environment, stdin)
    try:
        # Not tied to this process but by its socket, at whose end it leaves.
        pid = child_process(errand.command, stdin.fileno(), environment)
    except OSError as error:
        hint = "Is the machine out of processes or memory?"
        raise OrchError("internal", f"{errand.description} cannot be started: {error.strerror}.", hint) from error
    return ChildHandle(pid), lambda: None


async def _start_unit(
    errand: Errand, environment: dict[str, str], stdin: socket.socket
) -> tuple[Handle, Callable[[], None]]:
    # A D-Bus library, which a daemon whose workers are children has not loaded.
    from neuroshell_orch.workers.manager import BusError, Manager  # noqa: PLC0415
    from neuroshell_orch.workers.transient import own_service, refused, start_unit  # noqa: PLC0415

    manager = await Manager.connect()
    try:
        name = f"nsorch-{errand.name}-{os.getpid()}-{next(_numbers)}.service"
        bind_to, runtime_dir = await own_service(manager), os.environ.get("XDG_RUNTIME_DIR")
        properties = errand_properties(errand, environment, bind_to=bind_to, runtime_dir=runtime_dir)
        try:
            return await start_unit(manager, name, properties, stdin), manager.close
        except BusError as error:
            raise refused(name, error) from error
    except BaseException:
        manager.close()
        raise


def errand_properties(
    errand: Errand, environment: Mapping[str, str], *, bind_to: str | None, runtime_dir: str | None
) -> list[Property]:
    """Everything about the unit. ``bind_to`` is the daemon's own service; with it the errand ends."""
    properties: list[Property] = [
        ("Description", "s", errand.description),
        ("ExecStart", "a(sasb)", [[errand.command[0], errand.command, False]]),
        ("StandardInputFileDescriptor", "h", 0),
        ("Environment", "as", acceptable_environment(environment)),
        ("Type", "s", "exec"),
        # Ended by SIGTERM, unlike a worker: it has something to clean up.
        ("TimeoutStopUSec", "t", int(_LEAVE_SECONDS * 1_000_000)),
        ("CollectMode", "s", "inactive-or-failed"),
        ("StandardOutput", "s", "journal"),
        ("StandardError", "s", "journal"),
        ("SyslogIdentifier", "s", "nsorch-errand"),
        ("WorkingDirectory", "s", "/"),
        ("Slice", "s", SLICE),
        *LIMITS,
        *(setting for setting in SANDBOX if setting[0] not in _OPENED),
        ("RestrictAddressFamilies", "(bas)", [True, ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"]]),
        ("ReadWritePaths", "as", list(errand.writes)),
    ]
    if bind_to is not None:
        properties += [("BindsTo", "as", [bind_to]), ("After", "as", [bind_to])]
    if runtime_dir:
        # The user's buses live there: whatever a package holds must not reach them.
        properties.append(("TemporaryFileSystem", "a(ss)", [[runtime_dir, "ro"]]))
    return properties
