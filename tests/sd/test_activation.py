"""Sockets are found by name and address, whatever their order; what is unknown is closed and said."""

import json
import os
import socket
import subprocess
import sys

import pytest

from neuroshell_orch.sd import activation

CHILD = """
import json, os, sys
passed = [int(fd) for fd in sys.argv[1].split(",") if fd]
high = [os.dup2(fd, 100 + n) for n, fd in enumerate(passed)]
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n)
os.environ.update(LISTEN_FDS=str(len(passed)), LISTEN_FDNAMES=sys.argv[2], LISTEN_PID=sys.argv[3] or str(os.getpid()))
from neuroshell_orch.sd.activation import listen_sockets
found = listen_sockets()
def is_open(fd):
    try:
        return bool(os.fstat(fd))
    except OSError:
        return False
print(json.dumps({
    "found": {role: [str(s.getsockname()) for s in sockets] for role, sockets in found.items()},
    "open": [is_open(3 + n) for n in range(len(passed))],
    "inherit": [os.get_inheritable(s.fileno()) for sockets in found.values() for s in sockets],
    "environ": [name for name in os.environ if name.startswith("LISTEN_")],
    "again": len(listen_sockets()),
}))
"""


def _unix(path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def _tcp() -> socket.socket:
    listener = socket.socket(socket.AF_INET)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def _activate(sockets: list[socket.socket], names: list[str], pid: str = "") -> tuple[dict, str]:
    fds = [item.fileno() for item in sockets]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, ",".join(map(str, fds)), ":".join(names), pid],
        pass_fds=fds,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("swapped", [False, True])
def test_roles_follow_names_not_order(tmp_path, swapped):
    with _unix(tmp_path / "api.sock") as unix, _tcp() as tcp:
        given = [(unix, "api"), (tcp, "http")]
        if swapped:
            given.reverse()
        answer, stderr = _activate([item for item, _ in given], [name for _, name in given])
        assert answer["found"] == {"api": [str(tmp_path / "api.sock")], "http": [str(tcp.getsockname())]}
    assert stderr == ""
    assert answer["inherit"] == [False, False]
    assert answer["environ"] == []
    assert answer["again"] == 0


def test_two_sockets_may_share_a_role(tmp_path):
    with _unix(tmp_path / "a") as one, _unix(tmp_path / "b") as two:
        answer, _ = _activate([one, two], ["api", "nsorch.socket"])
    assert answer["found"] == {"api": [str(tmp_path / "a"), str(tmp_path / "b")]}


def test_tcp_under_the_private_name_is_refused(tmp_path):
    with _tcp() as tcp, _unix(tmp_path / "api.sock") as unix:
        answer, stderr = _activate([tcp, unix], ["api", "http"])
    assert answer["found"] == {}
    assert answer["open"] == [False, False]
    assert stderr.count("does not fit the name") == 2


def test_unknown_names_and_non_sockets_are_closed_and_reported(tmp_path):
    with _unix(tmp_path / "api.sock") as unix, _unix(tmp_path / "x") as stranger, (tmp_path / "f").open("w") as file:
        answer, stderr = _activate([stranger, unix, file], ["weights", "api", "api"])
    assert answer["found"] == {"api": [str(tmp_path / "api.sock")]}
    assert answer["open"] == [False, True, False]
    assert "'weights'" in stderr
    assert "it is not a socket" in stderr


def test_a_socket_that_does_not_listen_is_refused():
    with socket.socket(socket.AF_UNIX) as silent:
        answer, stderr = _activate([silent], ["api"])
    assert answer["found"] == {}
    assert "not a listening stream socket" in stderr


def test_descriptors_meant_for_another_process_are_left_alone(tmp_path):
    with _unix(tmp_path / "api.sock") as unix:
        answer, _ = _activate([unix], ["api"], pid=str(os.getpid()))
    assert answer["found"] == {}
    assert answer["open"] == [True]
    assert answer["environ"] == []


def test_nothing_when_not_activated():
    assert activation.listen_sockets() == {}


USER = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        (f"0::{USER}/app.slice/nsorch.service\n", "nsorch.service"),
        (
            f"0::{USER}/background.slice/background-nsorch.slice/nsorch-worker-a-1.service\n",
            "nsorch-worker-a-1.service",
        ),
        (f"0::{USER}/app.slice/nsorch.service/payload\n", "nsorch.service"),
        (f"0::{USER}/app.slice/_cpu.service\n", "cpu.service"),
        (f"0::{USER}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope\n", "vte-spawn-1.scope"),
        (f"0::{USER}/init.scope\n", None),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
        ("0::/system.slice/cron.service\n", None),
        ("0::/\n", None),
        ("", None),
        ("garbage", None),
        (f"9:name=systemd:{USER}/app.slice/nsorch.service\n4:memory:/elsewhere\n0::/\n", "nsorch.service"),
        (f"0::{USER}/app.slice/wrong.service\n1:name=systemd:{USER}/app.slice/nsorch.service\n", "nsorch.service"),
        ("4:memory:/x.service\n", None),
    ],
)
def test_own_unit_from_cgroup(cgroup, unit):
    assert activation.find_unit(cgroup) == unit


@pytest.mark.parametrize(
    ("cgroup", "manager", "unit"),
    [
        ("0::/box/app.slice/nsorch.service\n", "0::/box/init.scope\n", "nsorch.service"),
        ("0::/app.slice/nsorch.service\n", "0::/init.scope\n", "nsorch.service"),
        ("0::/app.slice/nsorch.service\n", "0::/\n", "nsorch.service"),
        ("0::/other/app.slice/nsorch.service\n", "0::/box/init.scope\n", None),
        ("0::/box/init.scope\n", "0::/box/init.scope\n", None),
    ],
)
def test_own_unit_below_a_manager_without_a_unit(cgroup, manager, unit):
    assert activation.find_unit(cgroup, manager) == unit


def test_own_unit_here_does_not_raise(monkeypatch):
    monkeypatch.setenv("MANAGERPID", "999999999")
    unit = activation.own_unit()
    assert unit is None or unit.endswith((".service", ".scope"))
