"""What the manager reads, and what no child may inherit."""

import os
import socket
import time

import pytest

from neuroshell_orch.sd.notify import Notifier, watchdog_interval


@pytest.fixture
def manager(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


@pytest.fixture
def notifier(manager):
    made = Notifier()
    yield made
    made.close()


def test_messages_are_systemds(manager, notifier):
    assert notifier.active
    notifier.ready()
    notifier.watchdog()
    notifier.stopping()
    assert [manager.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_status_is_utf8_one_line_and_only_on_change(manager, notifier):
    notifier.status("smollm2 HOT → PARKED\nin 40 ms")
    notifier.status("smollm2 HOT → PARKED\nin 40 ms")
    notifier.status("idle")
    notifier.ready()
    assert [manager.recv(200).decode() for _ in range(3)] == [
        "STATUS=smollm2 HOT → PARKED in 40 ms",
        "STATUS=idle",
        "READY=1",
    ]


def test_reloading_carries_the_monotonic_clock(manager, notifier):
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    first, second = manager.recv(200).decode().splitlines()
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_the_socket_leaves_the_environment(notifier):
    assert "NOTIFY_SOCKET" not in os.environ


def test_without_a_manager_nothing_happens(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    assert not notifier.active
    for call in (notifier.ready, notifier.reloading, notifier.watchdog, notifier.stopping, notifier.close):
        call()
    notifier.status("nobody reads this")


def test_a_manager_that_went_away_is_no_error(manager, notifier):
    manager.close()
    notifier.ready()


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("30000000", "", 15.0),
        ("30000000", "own", 15.0),
        ("30000000", "1", None),
        ("0", "own", None),
        ("soon", "own", None),
        (None, None, None),
    ],
)
def test_watchdog_interval(monkeypatch, usec, pid, expected):
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, str(os.getpid()) if value == "own" else value)
    assert watchdog_interval() == expected
    assert "WATCHDOG_USEC" not in os.environ
    assert "WATCHDOG_PID" not in os.environ
    assert watchdog_interval() is None
