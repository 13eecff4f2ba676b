"""A private ``systemd --user`` with its own runtime directory, bus and (where permitted) control group."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_BOOTED = Path("/run/systemd/system")


class UnavailableError(Exception):
    """Why a user manager cannot run here."""


def _own_cgroups() -> list[Path]:
    """New control groups for the manager alone; empty where we may not make them."""
    made = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        if controllers not in ("", "name=systemd"):
            continue
        names = ["systemd"] if controllers else ["unified", "."]
        root = next((p for n in names if (p := Path("/sys/fs/cgroup") / n).joinpath("cgroup.procs").exists()), None)
        if root is None:
            continue
        group = root / path.lstrip("/") / f"nsorch-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            made.append(group)
            if controllers:  # cgroup v1: the manager wants the same path below each controller
                (Path("/sys/fs/cgroup/memory") / group.relative_to(root)).mkdir()
    return made


def _remove(groups: list[Path]) -> None:
    memory = [Path("/sys/fs/cgroup/memory") / group.name for group in groups]
    for group in groups + memory:
        for folder, _folders, _files in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


@contextlib.contextmanager
def user_manager(folder: Path) -> Iterator[dict[str, str]]:
    """Run one below ``folder`` and yield the environment that reaches it. Raises UnavailableError."""
    systemd = shutil.which("systemd") or "/usr/lib/systemd/systemd"
    if not Path(systemd).exists() or shutil.which("dbus-daemon") is None:
        raise UnavailableError("systemd or dbus-daemon is not installed")
    made_booted = False
    if not _BOOTED.is_dir():
        try:
            _BOOTED.mkdir(parents=True)
            made_booted = True
        except OSError:
            raise UnavailableError("this machine was not booted with systemd, and only root can pretend") from None
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    home = folder / "home"
    home.mkdir()
    bus = runtime / "bus"
    ours = {"XDG_RUNTIME_DIR": str(runtime), "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus}", "HOME": str(home)}
    groups = _own_cgroups()
    moves = "".join(f"echo $$ > '{group}/cgroup.procs'; " for group in groups)
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8", **ours}
    with (folder / "manager.log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", f"{moves}exec {systemd} --user"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 20
        while not bus.is_socket():
            if process.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError(f"systemd --user did not start: {(folder / 'manager.log').read_text()[-300:]}")
            time.sleep(0.02)
        yield ours
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _remove(groups)
        if made_booted:
            with contextlib.suppress(OSError):
                _BOOTED.rmdir()
