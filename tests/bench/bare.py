"""Runs the bare scripts and takes their times from outside.

Owns their processes. Must not know the service; what it times ends at the first byte on a pipe, exactly as the
service's does at the first byte on a socket.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.kernel import Memory
from tests.bench.registry import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.world import World

HERE = Path(__file__).parent


def first_byte(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Seconds from exec to the first byte on standard output, and all of it. Raises BenchError."""
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        first = process.stdout.read1(1)
        seconds = time.perf_counter() - began
        rest, complaint = process.communicate(timeout=120)
    if process.returncode != 0 or not first:
        raise BenchError(f"{' '.join(command[:4])} … ended with {process.returncode}: {complaint.decode()[-500:]}")
    return seconds, (first + rest).decode()


def once(world: World, prompt: str, limit: int) -> tuple[float, str]:
    """A fresh process of the bare script: seconds from exec to its first token, and its answer."""
    command = [sys.executable, str(HERE / "bare_script.py"), str(world.model), str(limit), prompt]
    return first_byte(command, world.environment)


class Loop:
    """The bare script as a process that stays."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process = process
        self._folder = folder

    def _say(self, *words: object) -> None:
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, object]:
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the bare loop ended: {self._process.stderr.read().decode()[-500:]}")
        return json.loads(line)

    def load(self) -> None:
        self._say("load", str(self._folder))
        self._hear()

    def answer(self, prompt: str, limit: int, midway: int = 0) -> tuple[float, float, str, Memory]:
        """Seconds to the first token, tokens a second after it, the text, memory after ``midway`` tokens."""
        began = time.perf_counter()
        self._say("answer", prompt, limit, midway)
        self._hear()
        seconds = time.perf_counter() - began
        done = self._hear()
        return seconds, done["rate"], done["text"], Memory(*done["hot"])

    def drop(self) -> float:
        """Unload in the process; how long it took."""
        self._say("drop")
        return self._hear()["seconds"]

    def memory(self) -> Memory:
        self._say("memory")
        return Memory(*self._hear()["memory"])


@contextmanager
def loop(world: World) -> Iterator[Loop]:
    """A bare loop without its model yet."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "bare_loop.py")],
        env=world.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield Loop(process, world.model)
        finally:
            process.stdin.close()
            process.kill()
