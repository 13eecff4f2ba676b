"""One booted Debian: start it, run commands in it, end it.

Owns the guest's process, its control group, its writable folder and the way into it. Whatever ends the test run
also ends the guest: the kernel kills it with its parent, and its mounts live in its own namespace. Must not know
what is installed in it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import roots

ENTER = """
if [ -n "$1" ]; then mkdir -p "$1" && echo $$ > "$1/cgroup.procs"; fi
leader=$2; shift 2
exec nsenter -t "$leader" -m -u -i -n -p -- "$@"
"""


class GuestError(AssertionError):
    """A command in the guest, or the guest itself, did not do what the test needs."""


@dataclass(frozen=True)
class Result:
    """What a command in the guest left."""

    command: str
    returncode: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"$ {self.command}\n[exit {self.returncode}]\n{self.stdout[-6000:]}\n{self.stderr[-6000:]}"


@dataclass
class Guest:
    """A booted machine with a user manager for alice. ``binds`` are host paths and where they lie inside."""

    suite: roots.Suite
    layers: list[Path] = field(default_factory=list)
    binds: dict[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = f"nsorch-{self.suite.name}-{os.getpid()}-{time.monotonic_ns() % 1_000_000}"
        self.folder = roots.cache() / "run" / self.name
        self.process: subprocess.Popen[bytes] | None = None
        self.leader = 0

    # ---- life ----

    def boot(self) -> None:
        """Start the machine and wait until it and alice's user manager are up."""
        below = [*self.layers, roots.root(self.suite)]
        _sweep(self.folder.parent)
        for part in ("upper", "work", "merged"):
            (self.folder / part).mkdir(parents=True)
        nspawn = ["systemd-nspawn", "--register=no", "--boot", "--console=pipe", f"--machine={self.name}"]
        nspawn += [f"--directory={self.folder / 'merged'}", "--link-journal=no"]
        nspawn += [f"--bind-ro={source}:{inside}" for source, inside in self.binds.items()]
        groups = []
        if Path("/proc/1/comm").read_text().strip() != "systemd":
            # Nobody here makes a control group for each machine, and two machines in one get into each other's way.
            nspawn.insert(1, "--keep-unit")
            groups = self._groups()
        join = "".join(f"mkdir -p {group} && echo $$ > {group}/cgroup.procs && " for group in map(_quoted, groups))
        script = f"{join}exec {shlex.join(roots.stacked(below, self.folder, nspawn))}"
        with (self.folder / "console").open("wb") as console:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "/bin/sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        (self.folder / "pid").write_text(str(self.process.pid))
        try:
            self.wait_for(self._find_leader, "the guest's systemd", 60)
            self.wait_for(lambda: self._is_up("is-system-running"), "the end of the guest's boot", 90)
            self.wait_for(lambda: self._is_up("is-active", f"user@{roots.UID}.service"), "alice's user manager", 60)
            # Only now does its name say where it is: before, it was still on its way there.
            self.wait_for(lambda: self.run("systemctl --user is-system-running", check=False).stdout, "its bus", 30)
        except BaseException:
            self.kill()
            raise

    def poweroff(self, timeout: float = 30) -> None:
        """Shut it down as a user would, by force where that takes too long, and leave nothing behind."""
        if self.process is not None and self.process.poll() is None:
            self.run("systemctl poweroff", user="root", check=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """As a power cut does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
        for group in self._groups():
            _remove_group(group)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- use ----

    def run(
        self,
        command: str,
        *,
        user: str = roots.USER,
        check: bool = True,
        timeout: float = 60,
        stdin: str = "",
        env: dict[str, str] | None = None,
    ) -> Result:
        """Run a shell command as ``user`` in a login's environment, in the user's home."""
        argv = ["/bin/sh", "-euc", ENTER, "enter", self._entry_group(), str(self.leader), *self._as(user, env or {})]
        argv += ["/bin/bash", "-c", f"cd; {command}"]
        try:
            done = subprocess.run(
                argv, input=stdin, capture_output=True, text=True, errors="replace", check=False, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            said = [(part or b"").decode(errors="replace")[-3000:] for part in (error.stdout, error.stderr)]
            raise GuestError("\n".join([f"$ {command}", f"[not over after {timeout} s]", *said])) from error
        result = Result(command, done.returncode, done.stdout, done.stderr)
        if check and result.returncode != 0:
            raise GuestError(str(result))
        return result

    def write(self, path: str, text: str, *, user: str = roots.USER, mode: str = "0644") -> None:
        """Put a file into the guest, its folders with it."""
        quoted = shlex.quote(path)
        self.run(f"mkdir -p $(dirname {quoted}) && cat > {quoted} && chmod {mode} {quoted}", user=user, stdin=text)

    def wait_for(self, predicate, what: str, timeout: float = 30):
        """Ask until the answer is true, and return it."""
        end = time.monotonic() + timeout
        while True:
            answer = predicate()
            if answer:
                return answer
            if self.process is None or self.process.poll() is not None:
                raise GuestError(f"the guest is gone while waiting for {what}:\n{self._console()}")
            if time.monotonic() > end:
                raise GuestError(f"{what}: not within {timeout} s")
            time.sleep(0.1)

    def journal(self, *arguments: str) -> str:
        """Alice's journal."""
        return self.run(shlex.join(["journalctl", "--user", "--no-pager", *arguments]), check=False).stdout

    # ---- inside ----

    def _groups(self) -> list[Path]:
        """A group of the guest's own in each hierarchy that systemd uses for names."""
        return [hierarchy / self.name for hierarchy in _hierarchies()]

    def _entry_group(self) -> str:
        """Where our commands run inside, so that the guest's own programs can place them; made on first use."""
        group = ""
        for line in Path(f"/proc/{self.leader}/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                group = line[3:].removesuffix("/init.scope")
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            if after.startswith("cgroup2 "):
                return f"{before.split()[4]}{group}/nsorch-test"
        return ""

    def _as(self, user: str, env: dict[str, str]) -> list[str]:
        plain = {"LANG": "C.UTF-8", "USER": user, "LOGNAME": user, "TERM": "dumb"}
        if user == "root":
            plain |= {"HOME": "/root", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
            become = []
        else:
            runtime = f"/run/user/{roots.UID}"
            plain |= {"HOME": f"/home/{user}", "PATH": f"/home/{user}/.local/bin:/usr/local/bin:/usr/bin:/bin"}
            plain |= {"XDG_RUNTIME_DIR": runtime, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus"}
            become = ["/usr/bin/setpriv", f"--reuid={roots.UID}", f"--regid={roots.UID}", "--init-groups"]
        return ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in (plain | env).items()), *become]

    def _find_leader(self) -> bool:
        assert self.process is not None
        pid = self.process.pid
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    self.leader = int(child)
        return self.leader != 0

    def _is_up(self, *question: str) -> bool:
        """The answer of the guest's systemctl; it has none while its bus is not there yet."""
        state = self.run(shlex.join(["systemctl", *question]), user="root", check=False).stdout.strip()
        if state in {"degraded", "failed"}:
            failed = self.run("systemctl --failed --no-pager", user="root", check=False).stdout
            raise GuestError(f"the guest came up {state}:\n{failed}")
        return state in {"running", "active"}

    def _console(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / "console").read_text(errors="replace")[-4000:]
        return ""


def _hierarchies() -> list[Path]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options):
            found.append(Path(before.split()[4]))
    return found


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _remove_group(group: Path) -> None:
    """Remove a control group and those below; just after a kill it may still hold the dying for a moment."""
    end = time.monotonic() + 5
    while group.exists() and time.monotonic() < end:
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        if group.exists():
            time.sleep(0.05)


def _sweep(folder: Path) -> None:
    """Remove what runs that were killed have left: their guests died with them, only files and empty groups stay."""
    for left in [path for place in (folder, *_hierarchies()) for path in place.glob("nsorch-*-*-*")]:
        with contextlib.suppress(OSError, ValueError):
            if Path(f"/proc/{int(left.name.split('-')[2])}").exists():
                continue
            if left.parent == folder:
                shutil.rmtree(left)
            else:
                _remove_group(left)
