"""Run ``nsorch`` as a real process, beside a daemon's double that is a real process too."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-P", "-m", "neuroshell_orch.cli.main"]
FAKE = Path(__file__).with_name("fake_daemon.py")


class World:
    """One user's private home, with the means to run the program in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_dir = root / "run" / "nsorch"
        self.config = root / "config" / "nsorch"
        self.processes: list[subprocess.Popen] = []

    def start(self, *arguments: str, env=None, command=COMMAND, **options) -> subprocess.Popen:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = os.environ | {"PYTHONWARNINGS": "error"} | (env or {})
        process = subprocess.Popen([*command, *arguments], env=environment, **(streams | options))
        self.processes.append(process)
        return process

    def __call__(self, *arguments: str, stdin: bytes | None = None, env: dict[str, str] | None = None):
        source = subprocess.PIPE if stdin is not None else subprocess.DEVNULL
        process = self.start(*arguments, env=env, stdin=source)
        out, err = process.communicate(stdin, timeout=60)
        return Result(process.returncode, out.decode(), err.decode())

    def daemon(self, **knobs) -> subprocess.Popen:
        """Start the double and wait until it listens."""
        self.run_dir.mkdir(exist_ok=True)
        process = subprocess.Popen([sys.executable, "-P", str(FAKE), str(self.run_dir), json.dumps(knobs)])
        self.processes.append(process)
        wait_until(lambda: (self.run_dir / "api.sock").exists() or process.poll() is not None)
        return process

    def log(self) -> list[dict]:
        path = self.run_dir / "log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"code {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"

    @property
    def json(self):
        return json.loads(self.out)


def wait_until(fact, seconds: float = 20.0):
    """Wait for a fact, and return it."""
    end = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        select.select([], [], [], 0.01)
    return found
