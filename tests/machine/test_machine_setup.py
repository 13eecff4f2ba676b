"""The units in a real user manager: silent, started by a connection, sandboxed as promised, and gone again."""

import json
import textwrap

import pytest

pytestmark = [pytest.mark.machine, pytest.mark.timeout(900)]

SETUP = "PYTHONPATH=/src python3 -c 'import sys; from pathlib import Path; from neuroshell_orch.sd import units; {}'"
INSTALL = SETUP.format("[print(c.action, c.path or c.detail) for c in units.install(Path(sys.argv[1]))]") + " {program}"
REMOVE = SETUP.format("[print(c.action, c.path or c.detail) for c in units.remove()]")
UNITS = "/home/alice/.local/share/systemd/user"
NAMES = ("nsorch.socket", "nsorch.service", "nsorch-http.socket")

# Stands in for the daemon: tells on one connection what it can do inside the sandbox.
PROBE = """
import errno, json, os, socket, subprocess, sys

def attempt(action):
    try:
        action()
        return "yes"
    except OSError as error:
        return errno.errorcode[error.errno]

def write(path):
    return attempt(lambda: open(path, "w").close())

def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    return done.returncode

def map_executable():
    import mmap
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()

home = os.environ["HOME"]
listener = socket.socket(fileno=3 + os.environ["LISTEN_FDNAMES"].split(":").index("api"))
told = {
    "write": {path: write(path) for path in (
        "/usr/probe", "/etc/probe", home + "/probe", home + "/.ssh-probe", "/tmp/probe",
        home + "/.config/nsorch/probe", home + "/.cache/nsorch/probe", home + "/.local/state/nsorch/probe",
        home + "/.local/share/nsorch/probe", os.environ["XDG_RUNTIME_DIR"] + "/nsorch/probe",
        os.environ["XDG_RUNTIME_DIR"] + "/probe",
    )},
    "read": {path: attempt(lambda path=path: open(path).close()) for path in ("/tmp/model.bin", home + "/model.bin")},
    "family": {family.name: attempt(lambda family=family: socket.socket(family).close())
               for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET)},
    "unshare": run("unshare", "--user", "true"),
    "bus": run("busctl", "--user", "status"),
    "executable memory": attempt(map_executable),
    "core": __import__("resource").getrlimit(__import__("resource").RLIMIT_CORE)[0],
    "umask": os.umask(0o77),
    "privileges": [line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs")][0],
}
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
print("a line for the journal", file=sys.stderr, flush=True)
connection, _ = listener.accept()
connection.sendall(json.dumps(told).encode())
connection.close()
"""

ASK = """
import socket, os
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(os.environ["XDG_RUNTIME_DIR"] + "/nsorch/api.sock")
    while part := connection.recv(65536):
        print(part.decode(), end="")
"""


@pytest.fixture
def installed(guest):
    """The units in alice's home, made to start a stand-in for the daemon where a test gives one."""
    guest.write("/home/alice/fake nsorch", "#!/bin/sh\nexec true\n", mode="0755")
    yield guest.run(INSTALL.format(program="'/home/alice/fake nsorch'")).stdout
    guest.run(REMOVE)
    guest.run("rm -rf ~/.config/systemd; systemctl --user daemon-reload; systemctl --user reset-failed")


def test_verify_is_silent(guest, installed):
    done = guest.run("systemd-analyze --user verify " + " ".join(f"{UNITS}/{name}" for name in NAMES))
    assert (done.stdout, done.stderr) == ("", "")


def test_the_drop_in_for_newer_systemd_is_understood_there(guest, installed):
    if guest.suite.systemd < 253:
        pytest.skip(f"systemd {guest.suite.systemd} does not know Type=notify-reload; the drop-in is not for it")
    guest.run(
        "mkdir -p ~/.config/systemd/user && cp -r /src/systemd/since-253/nsorch.service.d ~/.config/systemd/user/"
        " && systemctl --user daemon-reload"
    )
    assert guest.run("systemctl --user show -P Type nsorch.service").stdout.strip() == "notify-reload"


def test_setup_tells_what_it_wrote_and_removes_all_of_it(guest):
    before = guest.run("find ~/.config ~/.local 2>/dev/null; true").stdout
    guest.write("/home/alice/bin/nsorch", "#!/bin/sh\n", mode="0755")
    said = guest.run(INSTALL.format(program="/home/alice/bin/nsorch")).stdout
    assert said.splitlines() == [*(f"write {UNITS}/{name}" for name in NAMES), "run systemctl --user daemon-reload"]
    assert "run" not in guest.run(INSTALL.format(program="/home/alice/bin/nsorch")).stdout
    guest.run("systemctl --user enable --now nsorch.socket")
    assert guest.run("systemctl --user is-active nsorch.socket").stdout.strip() == "active"
    guest.run(REMOVE)
    assert guest.run("systemctl --user show -P LoadState nsorch.socket").stdout.strip() == "not-found"
    assert guest.run("systemctl --user is-active nsorch.socket", check=False).stdout.strip() == "inactive"
    assert guest.run("test -e $XDG_RUNTIME_DIR/nsorch/api.sock", check=False).returncode == 1
    left = set(guest.run("find ~/.config ~/.local 2>/dev/null; true").stdout.split()) - set(before.split())
    # Folders that systemctl itself made for its links are its own.
    assert not [path for path in left if "nsorch" in path]


def test_the_socket_is_the_users_alone(guest, installed):
    guest.run("systemctl --user enable --now nsorch.socket")
    assert guest.run(
        "stat -c '%a %U %F' $XDG_RUNTIME_DIR/nsorch $XDG_RUNTIME_DIR/nsorch/api.sock"
    ).stdout.splitlines() == [
        "700 alice directory",
        "600 alice socket",
    ]
    assert guest.run("systemctl --user is-active nsorch.service", check=False).stdout.strip() == "inactive"


def test_a_connection_starts_it_inside_the_sandbox(guest, installed):
    guest.write("/home/alice/probe.py", PROBE)
    guest.write("/home/alice/ask.py", ASK)
    guest.run("echo weights > ~/model.bin; echo weights > /tmp/model.bin")
    guest.write(
        "/home/alice/.config/systemd/user/nsorch.service.d/probe.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/python3 %h/probe.py\n",
    )
    guest.run("systemctl --user daemon-reload && systemctl --user enable --now nsorch.socket")
    told = json.loads(guest.run("python3 ~/ask.py", timeout=30).stdout)
    run, home = "/run/user/1000", "/home/alice"
    assert told.pop("write") == {
        "/usr/probe": "EROFS",
        "/etc/probe": "EROFS",
        f"{home}/probe": "EROFS",
        f"{home}/.ssh-probe": "EROFS",
        "/tmp/probe": "EROFS",
        f"{run}/probe": "EROFS",
        f"{home}/.config/nsorch/probe": "yes",
        f"{home}/.cache/nsorch/probe": "yes",
        f"{home}/.local/state/nsorch/probe": "yes",
        f"{home}/.local/share/nsorch/probe": "yes",
        f"{run}/nsorch/probe": "yes",
    }
    assert told.pop("read") == {"/tmp/model.bin": "yes", f"{home}/model.bin": "yes"}
    assert told.pop("family") == {
        "AF_UNIX": "yes",
        "AF_INET": "EAFNOSUPPORT",
        "AF_INET6": "EAFNOSUPPORT",
        "AF_NETLINK": "EAFNOSUPPORT",
        "AF_PACKET": "EAFNOSUPPORT",
    }
    assert told.pop("unshare") != 0
    assert told.pop("executable memory") in {
        "EPERM",
        "EACCES",
    }  # by a seccomp filter, by the kernel itself where it can
    assert told == {
        "bus": 0,
        "core": 0,
        "umask": 0o77,
        "privileges": "1",
    }
    guest.wait_for(
        lambda: guest.run("systemctl --user is-active nsorch.service", check=False).stdout.strip() == "inactive",
        "the end of the service",
    )
    assert guest.run("systemctl --user is-active nsorch.socket").stdout.strip() == "active"
    assert "a line for the journal" in guest.journal("-u", "nsorch.service")


@pytest.mark.parametrize("program", ["false", "true"])
def test_a_service_that_always_ends_does_not_close_the_socket(guest, installed, program):
    guest.write(
        "/home/alice/.config/systemd/user/nsorch.service.d/end.conf",
        f"[Service]\nType=simple\nExecStart=\nExecStart=/usr/bin/{program}\n",
    )
    guest.write(
        "/home/alice/patient.py",
        textwrap.dedent("""
        import socket, os
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.environ["XDG_RUNTIME_DIR"] + "/nsorch/api.sock")
            connection.settimeout(5)
            try:
                connection.recv(1)
            except TimeoutError:
                print("still waiting")
    """),
    )
    guest.run("systemctl --user daemon-reload && systemctl --user enable --now nsorch.socket")
    assert guest.run("python3 ~/patient.py").stdout == "still waiting\n"
    assert guest.run("systemctl --user is-active nsorch.socket").stdout.strip() == "active"
    guest.run("systemctl --user stop nsorch.socket nsorch.service")


def test_a_reload_reaches_the_main_process(guest, installed):
    guest.write("/home/alice/hup.sh", "#!/bin/sh\ntrap 'echo was told' HUP\nwhile :; do sleep 0.1; done\n", mode="0755")
    guest.write(
        "/home/alice/.config/systemd/user/nsorch.service.d/hup.conf",
        "[Service]\nType=exec\nWatchdogSec=0\nExecStart=\nExecStart=%h/hup.sh\n",
    )
    guest.run("systemctl --user daemon-reload && systemctl --user start nsorch.service && sleep 0.3")
    guest.run("systemctl --user reload nsorch.service")
    guest.wait_for(lambda: "was told" in guest.journal("-u", "nsorch.service"), "the signal")
    guest.run("systemctl --user stop nsorch.socket nsorch.service")
