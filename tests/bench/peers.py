"""llama-server beside us, where there is one: its process, and asks over its port.

Owns where it is looked for (``LLAMA_SERVER=``, then ``PATH``), its arguments and its end. It is never a dependency, and
it runs the GGUF file that the run's model was made of. Must not know what is compared.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.bench import ask
from tests.bench.kernel import cores
from tests.bench.registry import BenchError
from tests.support_models import NAME, smollm2_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bench.world import World

WAIT = 120.0
CONTEXT = 4096


def program() -> str | None:
    """The peer's program, if there is one here."""
    return os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")


def gguf_of(world: World) -> Path | None:
    """The file that the run's model was made of, if that is known."""
    return smollm2_gguf() if world.model.name == NAME else None


def version() -> str:
    """What it says of itself."""
    told = subprocess.run([program(), "--version"], capture_output=True, text=True, check=False, timeout=30)
    return next((line for line in (told.stderr + told.stdout).splitlines() if "version" in line), "version unknown")


class LlamaServer:
    """One running process."""

    def __init__(self, world: World, gguf: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._log = world.folder / f"llama-{self.port}.log"
        self.began = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(program(), "--model", str(gguf), "--host", "127.0.0.1", "--port", str(self.port)),
                    *("--threads", str(cores()), "--ctx-size", str(CONTEXT), "--parallel", "1", "--no-warmup"),
                ],
                env=world.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def ask(self, prompt: str, limit: int, *, from_start: bool = False) -> ask.Answer:
        """A greedy answer; timed from the process's start if so wanted. While it loads it is asked again and again."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise BenchError(f"llama-server ended: {self.tail()}")
            began = self.began if from_start else time.perf_counter()
            try:
                with socket.create_connection(("127.0.0.1", self.port)) as sock:
                    sock.settimeout(WAIT)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.sendall(ask.request(prompt, limit))
                    if sock.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL).endswith(b"200"):
                        return ask.read(sock, began, self, 0, None)
            except ConnectionRefusedError:
                pass
            time.sleep(0.002)
        raise BenchError(f"llama-server did not answer: {self.tail()}")

    def tail(self) -> str:
        """The end of what it said."""
        return self._log.read_text(errors="replace")[-500:]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def llama_server(world: World, gguf: Path) -> Iterator[LlamaServer]:
    """A process for as long as it is wanted."""
    server = LlamaServer(world, gguf)
    try:
        yield server
    finally:
        server.stop()


def words(count: int) -> str:
    """A text of about so many tokens, the same each time."""
    sentence = "The keeper of the lighthouse writes down what the sea and the wind were like on this day. "
    return (sentence * (count // 18 + 1))[: count * 5]
