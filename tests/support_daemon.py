"""The real daemon as a real process behind an activated socket, with fake models: for tests above the workers."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from neuroshell_orch.client import Client, connect
from tests.support_fake import fake_environment, fake_model

STARTER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); "
    "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='api'); "
    "from neuroshell_orch import start; sys.exit(start.main())"
)


def wait_until(fact, seconds=20.0):
    """Poll a fact that lives in another process."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := fact():
            return value
        time.sleep(0.01)
    raise AssertionError(f"it did not become true within {seconds} s")


class Manager:
    """Does what systemd does for a socket unit: holds the socket, starts the daemon when somebody connects."""

    def __init__(self, root: Path):
        self.root = root
        self.run_dir = root / "run" / "nsorch"
        self.run_dir.mkdir(mode=0o700)
        self.path = self.run_dir / "api.sock"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))
        self.listener.listen(256)
        self.config = root / "config" / "nsorch"
        self.config.mkdir(parents=True)
        self.process = None
        self.starts = 0
        self.environment = {}
        self.log = root / "daemon.log"
        self._stopping = threading.Event()
        self._thread = None
        self.settings()

    # ---- configuration ----

    def settings(self, **keys):
        lines = {"WorkerLauncher": "child", "IdleExitSec": "1h", "DefaultModel": "fake", "Mode": "timeout", **keys}
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        (self.config / "nsorch.conf").write_text(f"[Orchestrator]\n{text}")

    def mode(self, name, **keys):
        folder = self.config / "modes.d" / f"{name}.conf.d"
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{key}={value}\n" for key, value in keys.items())
        (folder / "90-test.conf").write_text(f"[Mode]\n{text}")

    def model(self, name="fake", runtime="genai", keys=(), **knobs):
        path = fake_model(self.root / f"{name}.json", **knobs)
        return self.register(name, path, runtime, keys)

    def register(self, name, path, runtime="genai", keys=()):
        folder = self.config / "models.d"
        folder.mkdir(exist_ok=True)
        text = "".join(f"{key}={value}\n" for key, value in dict(keys).items())
        (folder / f"{name}.conf").write_text(f"[Model]\nPath={path}\nRuntime={runtime}\n{text}")
        return path

    # ---- process ----

    def start(self, real=False):
        environment = os.environ | {"PYTHONWARNINGS": "error", "XDG_RUNTIME_DIR": str(self.root / "run")}
        if not real:
            environment |= fake_environment()
            environment["NSORCH_RUNTIMES"] = "genai=tests.workers.fake_runtime,onnx=tests.workers.fake_runtime"
        environment |= self.environment
        self.starts += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", STARTER, str(self.listener.fileno())],
                env=environment,
                pass_fds=[self.listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def activate(self):
        """From now on start the daemon whenever a connection waits and none runs."""

        def watch():
            while not self._stopping.is_set():
                readable, _, _ = select.select([self.listener], [], [], 0.05)
                if readable and (self.process is None or self.process.poll() is not None):
                    self.start()
                elif self.process is not None:
                    try:
                        self.process.wait(0.01)
                    except subprocess.TimeoutExpired:
                        continue

        self._thread = threading.Thread(target=watch)
        self._thread.start()
        return self

    def end(self):
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGCONT)
                self.process.terminate()
                try:
                    self.process.wait(10)
                except subprocess.TimeoutExpired:
                    self.process.kill()
            self.process.wait()
        self.listener.close()

    # ---- requests ----

    def client(self):
        return Client(lambda: connect(self.path))

    def get(self, path):
        return self.client().call("GET", path)

    def post(self, path, body=None, timeout=30.0):
        return self.client().call("POST", path, body, timeout)

    def ask(self, text="one two three", **fields):
        answer = self.post("/v1/chat/completions", chat(text, **fields))
        return answer["choices"][0]["message"]["content"]

    def stream(self, text="one two three", **fields):
        return self.client().events("/v1/chat/completions", chat(text, stream=True, **fields))

    def status(self, name="fake"):
        return self.get(f"/orch/models/{name}")

    def phase(self, name="fake"):
        return self.status(name)["phase"]

    def wait_phase(self, phase, name="fake"):
        return wait_until(lambda: (s := self.status(name))["phase"] == phase and s)


def chat(text, **fields):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


class Notifications:
    """A notify socket, as the manager would listen on it."""

    def __init__(self, path: Path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(20)
        self.path = path
        self.seen = []

    def wait(self, text):
        while True:
            message = self.socket.recv(4096).decode()
            self.seen.append(message)
            if any(line.startswith(text) for line in message.splitlines()):
                return message

    def close(self):
        self.socket.close()
