"""The first moments of the daemon: what is done before its own modules are imported.

Owns the lock that tells others that it is awake, its sockets, and the head start: the last daemon left a note of the
worker that will most likely be needed (``workers.likely``), and that worker is started first of all, so that it imports
its runtime while this process imports itself. Whoever has connected is heard meanwhile, and where an ask for that model
can be seen coming (``foresee``) the worker is told to load. It is a guess: ``workers.ahead`` takes it back. Must stay
cheap to import, and must not import a runtime.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from neuroshell_orch import __version__, marks
from neuroshell_orch.workers import likely

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from pathlib import Path

    from neuroshell_orch.sd.notify import Notifier
    from neuroshell_orch.workers.contract import Handle, Launcher

_PEEKED: Final = 1 << 16
"""Bytes of a request that are looked at."""
_LATE: Final = 2.0
"""Seconds that the service manager may take for the worker, once this process could do without it."""
_FIRST: Final = 3
"""The descriptor that the activation protocol begins with."""


class Lock:
    """Held while the daemon is awake: a client that finds it free knows that nothing is warm, and wakes nobody."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / "daemon.lock"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def take(self) -> None:
        """Raises OrchError when another daemon of this user is awake."""
        import fcntl

        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            from neuroshell_orch.errors import OrchError

            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            hint = "Stop it first: systemctl --user stop nsorch.service"
            raise OrchError("not-allowed", f"Another nsorch serves this user already (pid {holder}).", hint) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Free it."""
        os.close(self._fd)


class Early:
    """The head start. ``connections`` were accepted on the way and must be served."""

    def __init__(self, note: likely.Likely | None) -> None:
        self.began = time.monotonic()
        self.note = note
        self.pid: int | None = None
        """Of a worker that is our child."""
        self.handle: Handle | None = None
        """Of a worker that runs; with ``pid`` it is still to be made."""
        self.launcher: Launcher | None = None
        self.sock: socket.socket | None = None
        """Our end of the worker's socket, while there is one."""
        self.loads = False
        self.connections: list[socket.socket] = []
        self._theirs: socket.socket | None = None
        self._listeners: list[socket.socket] = []
        self._unheard: list[socket.socket] = []
        if note is None or note.launcher not in {"child", "systemd"}:
            return
        self.sock, self._theirs = socket.socketpair()
        self._say(note.announce)
        if note.launcher == "child":
            self._spawn()

    def _say(self, frame: bytes) -> None:
        assert self.sock is not None  # noqa: S101 - only where there is a worker
        with suppress(OSError):  # a worker that is gone is found out later
            self.sock.send(frame)

    def _spawn(self) -> None:
        from neuroshell_orch.workers.bare import worker_process

        assert self._theirs is not None  # noqa: S101 - made with our end
        try:
            self.pid = worker_process(self._theirs.fileno(), {})
        except OSError:
            self.abandon()
        else:
            self._theirs.close()
            marks.mark("ahead")

    def listen(self, listeners: list[socket.socket]) -> None:
        """Hear who connects to one of these; only private sockets are heard."""
        self._listeners = [one for one in listeners if one.family == socket.AF_UNIX]
        for listener in self._listeners:
            listener.setblocking(False)
        self.look()

    def look(self) -> None:
        """Take whoever has connected, and see whether one of them asks for the model of the worker."""
        for listener in self._listeners:
            with suppress(OSError):
                while self.sock is not None and not self.loads:
                    connection, _address = listener.accept()
                    connection.setblocking(False)
                    self.connections.append(connection)
                    self._unheard.append(connection)
        for connection in self._unheard:
            self._hear(connection)

    def _hear(self, connection: socket.socket) -> None:
        from neuroshell_orch import foresee

        note = self.note
        if note is None or self.sock is None or self.loads:
            return
        try:
            data = connection.recv(_PEEKED, socket.MSG_PEEK)
        except OSError:
            return
        model = foresee.asked(data)
        if model == note.model or (model == "" and note.default):
            self.loads = True
            marks.mark("foreseen")
            self._say(note.load)

    async def watch(self, load: Callable[[], asyncio.Future[None]]) -> None:
        """Start a worker that is no child, then import by ``load``, and hear connections until that is done."""
        import asyncio

        launching = None
        if self._theirs is not None and self._theirs.fileno() >= 0 and await self._connect():
            launching = asyncio.get_running_loop().create_task(self._launch(self._theirs))
            await asyncio.sleep(0)  # its request leaves before this process is busy importing
        importing = load()
        while not importing.done():
            self.look()
            await asyncio.wait({importing}, timeout=0.005)
        importing.result()
        self.look()
        if launching is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(launching, _LATE)
            if self.handle is None:
                self.abandon()

    async def _connect(self) -> bool:
        """Reach the service manager."""
        from neuroshell_orch.errors import OrchError
        from neuroshell_orch.workers.launch import connect_systemd

        try:
            self.launcher = await connect_systemd()
        except OrchError:
            self.abandon()
        return self.launcher is not None

    async def _launch(self, theirs: socket.socket) -> None:
        from neuroshell_orch.errors import OrchError
        from neuroshell_orch.workers.contract import WorkerSpec

        note = self.note
        assert note is not None  # noqa: S101 - there is a socket because of it
        assert self.launcher is not None  # noqa: S101 - likewise
        spec = WorkerSpec(name=note.model, number=0, memory_max=note.memory_max)
        try:
            with theirs:
                self.handle = await self.launcher.launch(spec, theirs)
            marks.mark("ahead")
        except OrchError:
            self.abandon()

    def abandon(self) -> None:
        """There is no worker; a child that was started ends with its socket."""
        for end in (self.sock, self._theirs):
            if end is not None:
                end.close()
        self.sock = None


def state_file(alone: bool) -> str:
    """Where the note lies, as ``config.paths`` has it, which would cost more than reading the note."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        base = os.path.expanduser("~/.local/state")  # noqa: PTH111
    return f"{base}/nsorch/likely-{'private' if alone else 'service'}"


def main(parent_fd: int | None = None) -> int:
    """Run the daemon in the foreground; returns its exit code. At end of file on ``parent_fd`` it ends."""
    marks.executed()
    for number in range(_FIRST, _FIRST + _passed()):
        with suppress(OSError):
            os.set_inheritable(number, False)
    early = Early(likely.read(state_file(parent_fd is not None), __version__))

    from neuroshell_orch.config.paths import runtime_dir
    from neuroshell_orch.errors import EXIT_UNAVAILABLE, OrchError
    from neuroshell_orch.sd import activation, journal
    from neuroshell_orch.sd.notify import Notifier

    journal.configure()
    notifier = Notifier()
    try:
        given = activation.listen_sockets()
        lock = Lock(runtime_dir())
        lock.take()
        sockets = [listener for listeners in given.values() for listener in listeners] or [_own_socket()]
    except OrchError as error:
        early.abandon()
        journal.log(journal.ERR, str(error))
        notifier.close()
        return error.kind.exit_code or EXIT_UNAVAILABLE
    early.listen(sockets)

    import asyncio

    try:
        asyncio.run(_serve(parent_fd, sockets, notifier, early))
    finally:
        if not given:
            with suppress(FileNotFoundError):
                (runtime_dir() / "api.sock").unlink()  # it was ours; an activated one is systemd's
        lock.release()
        notifier.close()
    journal.log(journal.DEBUG, f"Gone after {time.monotonic() - early.began:.1f} s.")
    return 0


async def _serve(parent_fd: int | None, sockets: list[socket.socket], notifier: Notifier, early: Early) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    await early.watch(lambda: loop.run_in_executor(None, _import))
    from neuroshell_orch.daemon import Daemon

    await Daemon(parent_fd, sockets, notifier, early).run()


def _import() -> None:
    import neuroshell_orch.daemon  # noqa: F401


def _passed() -> int:
    count = os.environ.get("LISTEN_FDS", "")
    return int(count) if count.isdecimal() and os.environ.get("LISTEN_PID") == str(os.getpid()) else 0


def _own_socket() -> socket.socket:
    """The socket of a daemon that was started by hand: the path the unit would listen on."""
    import stat

    from neuroshell_orch.config.paths import runtime_dir
    from neuroshell_orch.errors import OrchError

    path = runtime_dir() / "api.sock"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode) and not _answers(path):
                path.unlink()  # left by a daemon that was killed; we hold the lock, so nobody serves it
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(128)
    except OSError as error:
        listener.close()
        hint = "If nsorch.socket is active, the service is there already: nsorch status"
        raise OrchError("not-allowed", f"Cannot listen on {path}: {error.strerror}.", hint) from error
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
