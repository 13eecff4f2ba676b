"""The service under test: a listening socket, a configuration, and the daemon that a connection starts.

Owns what systemd does for a socket unit (holds the socket, starts the program on the first connection with the
descriptor and LISTEN_* of the activation protocol) and the folders of one instance. The program is the real one, with
the real runtime. Must not know what is measured.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.kernel import NOTHING, Memory, memory
from tests.bench.registry import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.world import World

SERVE = 'exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=api exec "$@"'
"""The socket comes as standard input and becomes descriptor 3, where the protocol wants it."""

WAIT = 120.0


def program() -> list[str]:
    """The command line's program, as this environment has it."""
    script = Path(sys.executable).parent / "nsorch"
    return [str(script)] if script.exists() else [sys.executable, "-P", "-m", "neuroshell_orch.cli.main"]


def wait_until(fact: Callable[[], object], what: str, pause: float = 0.005):
    """Poll a fact about another process; its first true value."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if value := fact():
            return value
        time.sleep(pause)
    raise BenchError(f"{what} did not come true within {WAIT:.0f} s")


class Orchestrator:
    """One instance with one model. Names are unique, as transient services share their manager's name space."""

    def __init__(self, world: World, name: str, launcher: str, mode: str = "timeout", **keys: str) -> None:
        self.model = f"bench-{name}"
        self.mode = mode
        self._world = world
        folder = world.folder / name
        self.config = folder / "config" / "nsorch"
        (self.config / "models.d").mkdir(parents=True)
        runtime = folder / "run" / "nsorch"
        runtime.mkdir(mode=0o700, parents=True)
        self.path = runtime / "api.sock"
        self.environment = world.environment | world.bus
        for variable, place in (("CONFIG_HOME", "config"), ("DATA_HOME", "data"), ("STATE_HOME", "state")):
            self.environment[f"XDG_{variable}"] = str(folder / place)
        # The cache is shared: a copy prepared for hibernation is made once.
        self.environment |= {"XDG_RUNTIME_DIR": str(folder / "run"), "XDG_CACHE_HOME": str(world.folder / "cache")}
        self.log = folder / "daemon.log"
        self._launcher = launcher
        self.settings()
        (self.config / "models.d" / f"{self.model}.conf").write_text(f"[Model]\nPath={world.model}\nRuntime=genai\n")
        self._drop_in("90-bench.conf", keys)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._process: subprocess.Popen[bytes] | None = None
        self._starter: threading.Thread | None = None
        self._disarm = os.eventfd(0, os.EFD_CLOEXEC)

    def settings(self, idle_exit: str = "1h") -> None:
        """Write the configuration anew."""
        lines = {
            "WorkerLauncher": self._launcher,
            "Mode": self.mode,
            "DefaultModel": self.model,
            "IdleExitSec": idle_exit,
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        (self.config / "nsorch.conf").write_text(f"[Orchestrator]\n{text}")

    def model_keys(self, **keys: str) -> None:
        """Further keys of the model; before the daemon is started."""
        folder = self.config / "models.d" / f"{self.model}.conf.d"
        folder.mkdir()
        (folder / "90-bench.conf").write_text("[Model]\n" + "".join(f"{key}={value}\n" for key, value in keys.items()))

    def _drop_in(self, name: str, keys: dict[str, str]) -> None:
        folder = self.config / "modes.d" / f"{self.mode}.conf.d"
        folder.mkdir(parents=True)
        (folder / name).write_text("[Mode]\n" + "".join(f"{key}={value}\n" for key, value in keys.items()))

    # ---- process ----

    def arm(self) -> Orchestrator:
        """From now on the next connection starts the daemon."""
        if self._process is None and self._starter is None:
            self._starter = threading.Thread(target=self._start_when_connected, daemon=True)
            self._starter.start()
        return self

    def _start_when_connected(self) -> None:
        if self._disarm in select.select([self._listener, self._disarm], [], [])[0]:
            os.eventfd_read(self._disarm)
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", SERVE, "sh", *program(), "serve"],
                stdin=self._listener,
                stdout=log,
                stderr=log,
                env=self.environment,
            )

    @property
    def pid(self) -> int:
        """The daemon's."""
        self._settle()
        if self._process is None:
            raise BenchError("the daemon does not run")
        return self._process.pid

    def _settle(self) -> None:
        if self._starter is not None:
            self._starter.join()
            self._starter = None

    def stop(self) -> None:
        """End the daemon and with it its workers, and wait until they are gone: nothing of this instance runs."""
        if self._starter is not None and self._starter.is_alive():
            os.eventfd_write(self._disarm, 1)
        self._settle()
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise BenchError(f"the daemon {process.pid} did not end: {self.tail()}") from None

    def wait_exit(self) -> None:
        """Until the daemon has left by itself."""
        _ = self.pid
        process, self._process = self._process, None
        process.wait(WAIT)

    def close(self) -> None:
        """End everything and remove the folders."""
        self.stop()
        self._listener.close()
        os.close(self._disarm)
        shutil.rmtree(self.path.parents[2], ignore_errors=True)

    def tail(self) -> str:
        """The end of what the daemon said."""
        return self.log.read_text(errors="replace")[-800:] if self.log.exists() else "it said nothing"

    # ---- what there is to see ----

    def call(self, method: str, path: str):
        """One control request."""
        connection = HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(WAIT)
        try:
            connection.sock.connect(str(self.path))
            connection.request(method, path, headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise BenchError(f"{method} {path}: {response.status} {body.decode()[:500]}")
        return json.loads(body)

    def status(self):
        return self.call("GET", f"/orch/models/{self.model}")

    def wait_phase(self, *phases: str):
        """The status once the model has come to rest in one of ``phases``."""
        return wait_until(lambda: (s := self.status())["phase"] in phases and s, f"{self.model} {phases}")

    def unload(self) -> None:
        self.call("POST", f"/orch/models/{self.model}/unload")

    def worker_memory(self, status=None) -> Memory:
        """Of the worker, if there is one; by the daemon's eyes where its sandbox keeps ours out."""
        status = status or self.status()
        if status["pid"] is None:
            return NOTHING
        try:
            return memory(status["pid"])
        except PermissionError:
            return Memory(status["memory"]["pss"], status["memory"]["private_dirty"])
