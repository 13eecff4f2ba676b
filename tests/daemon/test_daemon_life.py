"""The daemon's own life: activation, readiness, watchdog, reload, signals, idle exit. Real processes, real sockets."""

from __future__ import annotations

import concurrent.futures
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from neuroshell_orch.errors import OrchError
from tests.support_daemon import Notifications, wait_until


def test_it_leaves_when_idle_and_the_next_connection_starts_it_again(manager):
    manager.settings(IdleExitSec="200ms", Mode="dynamic")
    manager.model()
    manager.activate()
    assert manager.ask("one") == "one "
    wait_until(lambda: manager.process.poll() == 0)
    assert manager.ask("two") == "two "
    assert manager.starts == 2
    assert manager.path.exists(), "the socket is the manager's, never unlinked"


def test_sixty_clients_against_a_fifty_millisecond_idle_exit_get_sixty_answers(manager):
    manager.settings(IdleExitSec="50ms", Mode="dynamic")
    manager.model()
    manager.activate()
    pause = threading.Event()

    def ask(number):
        pause.wait(0.15 * (number % 20))
        return manager.ask(f"n{number}")

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(60)))
    assert answers == [f"n{number} " for number in range(60)]
    assert manager.starts > 1, "it did exit in between"


def test_a_hot_model_keeps_the_daemon(manager):
    manager.settings(IdleExitSec="100ms")
    manager.mode("timeout", IdleSec="1s")
    manager.model()
    manager.activate()
    manager.ask()
    manager.wait_phase("COLD")
    wait_until(lambda: manager.process.poll() == 0)
    assert manager.starts == 1


def test_readiness_status_watchdog_and_stopping_are_told_to_the_manager(manager):
    notifications = Notifications(manager.root / "notify")
    manager.environment = {"NOTIFY_SOCKET": str(notifications.path), "WATCHDOG_USEC": "200000"}
    manager.model()
    manager.start()
    try:
        notifications.wait("READY=1")
        notifications.wait("WATCHDOG=1")
        manager.ask()
        assert "fake HOT" in notifications.wait("STATUS=Mode timeout: fake HOT")
        manager.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in notifications.wait("RELOADING=1")
        notifications.wait("READY=1")
        manager.process.terminate()
        notifications.wait("STOPPING=1")
        assert manager.process.wait(10) == 0
    finally:
        notifications.close()


def test_workers_get_neither_sockets_nor_notify_variables(manager):
    notifications = Notifications(manager.root / "notify")
    manager.environment = {"NOTIFY_SOCKET": str(notifications.path), "WATCHDOG_USEC": "20000000"}
    manager.model()
    manager.start()
    try:
        manager.ask()
        pid = manager.status()["pid"]
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        names = {entry.partition(b"=")[0].decode() for entry in environment}
        assert not {name for name in names if name.startswith(("LISTEN_", "WATCHDOG_")) or name == "NOTIFY_SOCKET"}
        targets = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert len([target for target in targets if target.startswith("socket:")]) == 1, "its own end of its pair"
    finally:
        notifications.close()


def test_a_bad_configuration_is_refused_and_the_old_one_stays(manager):
    manager.model()
    manager.start()
    manager.ask()
    manager.settings(Mode="dynamic", IdleExitSec="soon")
    with pytest.raises(OrchError) as caught:
        manager.post("/orch/reload")
    assert caught.value.problem == "config-invalid"
    assert "nsorch.conf:3" in caught.value.message
    assert manager.phase() == "HOT", "the old mode is in force"
    status = manager.get("/orch/status")
    assert status["mode"] == "timeout"
    assert any("IdleExitSec" in warning for warning in status["warnings"])
    manager.process.send_signal(signal.SIGHUP)
    wait_until(lambda: manager.log.read_text().count("Configuration refused") == 2)
    manager.settings(Mode="dynamic")
    assert manager.post("/orch/reload") == {"warnings": []}
    manager.wait_phase("COLD")
    assert manager.get("/orch/status")["warnings"] == []


def test_a_broken_configuration_does_not_keep_the_daemon_from_starting(manager):
    manager.model()
    manager.settings(Mode="nonsense", IdleExitSec="soon")
    (manager.config / "models.d" / "broken.conf").write_text("[Model]\nPath=relative\n")
    manager.start()
    assert manager.ask("still") == "still "
    warnings = "\n".join(manager.get("/orch/status")["warnings"])
    assert "nonsense" in warnings
    assert "broken.conf:2" in warnings


def test_sigterm_lets_the_running_answer_end(manager):
    manager.model(tokens=60, delay=0.01)
    manager.start()
    events = manager.stream("w")
    next(events)
    manager.process.terminate()
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
    assert text.split() == ["w"] * 60
    assert manager.process.wait(10) == 0


def test_sigterm_cuts_an_endless_answer_off_with_a_typed_error(manager):
    manager.settings(StopTimeoutSec="300ms")
    manager.model(tokens=-1, delay=0.005)
    manager.start()
    events = manager.stream("w")
    next(events)
    manager.process.terminate()
    with pytest.raises(OrchError) as caught:
        list(events)
    assert caught.value.kind.retryable
    assert manager.process.wait(10) == 0


def test_only_one_daemon_serves_a_user_and_the_lock_tells_that_it_is_awake(manager):
    manager.start()
    manager.get("/orch/status")
    lock = manager.run_dir / "daemon.lock"
    assert int(lock.read_text()) == manager.process.pid
    with lock.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    second = subprocess.run(
        [sys.executable, "-P", "-m", "neuroshell_orch.cli.main", "serve"], capture_output=True, text=True, check=False
    )
    assert second.returncode == 5
    assert f"pid {manager.process.pid}" in second.stderr
    manager.process.terminate()
    manager.process.wait()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_serve_by_hand_listens_itself_and_cleans_up(xdg):
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "neuroshell_orch.cli.main", "serve"], stderr=subprocess.PIPE, text=True
    )
    path = xdg / "run" / "nsorch" / "api.sock"
    try:
        wait_until(lambda: path.exists() and "ready" in process.stderr.readline())
        assert path.stat().st_mode & 0o777 == 0o600
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert not path.exists()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_half_open_client_does_not_keep_others_waiting(manager):
    manager.model()
    manager.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(str(manager.path))
        silent.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert manager.ask("fine") == "fine "
