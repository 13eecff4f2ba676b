"""The daemon for one command, where no service listens.

Owns the private folder and socket, the child process, the line that tells the person, and the end of both: whatever
ends this process (also SIGKILL), the daemon sees the end of file on its parent pipe, ends and removes the folder.
Must not know what is asked.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from neuroshell_orch.cli.ending import orderly
from neuroshell_orch.cli.output import note
from neuroshell_orch.client import Client, connect
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Generator

END_SECONDS: Final = 15.0
"""How long the daemon may take to end its workers before it is killed."""

UNIT: Final = "nsorch.socket"
_SYSTEM_UNITS: Final = (
    "/etc/systemd/user",
    "/run/systemd/user",
    "/usr/local/lib/systemd/user",
    "/usr/lib/systemd/user",
)


def installed_unit(name: str = UNIT) -> Path | None:
    """Where the unit file ``name`` is installed for this user, or None."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  (Path.expanduser raises where there is no home)
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    for folder in (config / "systemd/user", data / "systemd/user", *map(Path, _SYSTEM_UNITS)):
        if (folder / name).exists():
            return folder / name
    return None


def _keep_it() -> str:
    from neuroshell_orch.sd import units

    if not units.manager_runs():
        return "`nsorch doctor` says what a lasting one needs."
    if installed_unit() is None:
        return "`nsorch setup` installs one that stays."
    return f"`systemctl --user enable --now {UNIT}` keeps it."


@contextmanager
def service() -> Generator[Client, None, None]:
    """A client of the running service; where none listens, of a daemon that lives for this block."""
    from neuroshell_orch.cli import early

    ready, begun = early.take()
    client = Client(ready=ready, begun=begun)
    try:
        client.reach()
    except OrchError as error:
        if error.problem != "service-unreachable" or os.environ.get("NSORCH_SOCKET"):
            raise
    else:
        try:
            yield client
        finally:
            client.close()
        return
    note(f"nsorch: no running service; starting one for this command. {_keep_it()}")
    with _daemon() as path:
        client = Client(lambda: connect(path), look="What it said of it stands above.")
        try:
            yield client
        finally:
            client.close()


@contextmanager
def _daemon() -> Generator[Path, None, None]:
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="nsorch-"))  # 0700
    with orderly():
        try:
            (folder / "nsorch").mkdir(mode=0o700)
            path = folder / "nsorch" / "api.sock"
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(str(path))
                path.chmod(0o600)
                listener.listen(64)
                process, pipe = _start(listener, folder)
            try:
                yield path
            finally:
                _end(process, pipe)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _start(listener: socket.socket, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    reading, writing = os.pipe()
    handed = (listener.fileno(), reading)
    command = [sys.executable, "-P", "-m", "neuroshell_orch.cli.once", *map(str, handed), str(folder)]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=handed,
            start_new_session=True,  # Ctrl-C is for us; we tell the daemon
        )
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    return process, writing


def _end(process: subprocess.Popen[bytes], pipe: int) -> None:
    os.close(pipe)
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(END_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()
