"""Fixtures for every test: a private XDG world, and a guard that nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support_daemon import Manager
from tests.support_home import private_home


def _children() -> set[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in text.split()}


def _descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith(("socket:", "pipe:")) or not target.startswith(("/dev/", "/proc/", "anon_inode:")):
            found[int(name)] = target
    return found


@pytest.fixture(autouse=True, scope="module")
def _a_collection_looks_at_what_is_new():
    """Thousands of collected tests and all imports are set aside: to look at them takes 0.16 s, and each test does."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _nothing_left_behind(_a_collection_looks_at_what_is_new):
    """A test that leaves a process, a socket, a pipe or an open file behind fails."""
    children, descriptors = _children(), _descriptors()
    yield
    gc.collect()
    left = _children() - children
    assert not left, f"processes left behind: {sorted(left)}"
    opened = {fd: target for fd, target in _descriptors().items() if descriptors.get(fd) != target}
    assert not opened, f"descriptors left behind: {opened}"


os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything imports a runtime
# A shell starts background jobs with SIGINT ignored, and every program that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private home: every XDG directory lies under the returned folder."""
    private_home(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def manager(xdg: Path):
    """The real daemon behind an activated socket; a traceback or a warning in its log fails the test."""
    manager = Manager(xdg)
    yield manager
    manager.end()
    log = manager.log.read_text() if manager.log.exists() else ""
    sys.stdout.write(log)
    assert "Traceback" not in log
    assert "never retrieved" not in log
