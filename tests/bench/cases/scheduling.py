"""Many models and one budget: does it hold, is it fair, does anything stay behind?

Owns four loads on the real daemon with real runtimes: random asks on many models, two clients whose models do not fit
together, cycles of loading and unloading, and clients that leave. ``--long`` gives them the time that a verdict needs.
The peer of the second is first come, first served: the same daemon with MaxSwapDelay=0.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroshell_orch.client import Client, connect
from neuroshell_orch.errors import OrchError
from tests.bench.kernel import MEBIBYTE, memory
from tests.bench.registry import BenchError, Finding, Note, Row, benchmark
from tests.support_daemon import STARTER, chat, wait_until
from tests.support_tiny import tiny_genai_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.world import World

REGISTERED, REAL, CLIENTS = 1000, 20, 8
BUDGET = 300 * MEBIBYTE
"""Holds four of the small models, each of which takes 55 to 70 MiB with its runtime."""
FLAT = 1.0
"""MiB that the daemon's own memory may grow by."""


class Instance:
    """One daemon on its own socket, with a configuration of its own."""

    def __init__(
        self, world: World, folder: Path, models: dict[str, Path], runtime: str = "genai", **settings: object
    ) -> None:
        self.folder = folder
        config = folder / "config" / "nsorch"
        (config / "models.d").mkdir(parents=True)
        keys = {"WorkerLauncher": "child", "IdleExitSec": "1h", "MaxQueue": 1000, **settings}
        text = "".join(f"{key}={value}\n" for key, value in keys.items())
        (config / "nsorch.conf").write_text(f"[Orchestrator]\n{text}")
        for name, path in models.items():
            (config / "models.d" / f"{name}.conf").write_text(f"[Model]\nPath={path}\nRuntime={runtime}\n")
        run = folder / "run"
        run.mkdir(mode=0o700)
        self.path = folder / "api.sock"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))
        self.listener.listen(256)
        homes = {f"XDG_{kind}_HOME": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "STATE", "CACHE")}
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", STARTER, str(self.listener.fileno())],
            env=world.environment | homes | {"XDG_RUNTIME_DIR": str(run)},
            pass_fds=[self.listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        self.call("GET", "/v1/models")

    def call(self, method: str, path: str, body: object = None) -> Any:
        return Client(lambda: connect(self.path)).call(method, path, body, 120.0)

    def ask(self, model: str, limit: int = 4) -> None:
        self.call("POST", "/v1/chat/completions", chat("hello", model=model, max_tokens=limit))

    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def held(self) -> float:
        """MiB of all workers together, by the kernel."""
        total = 0
        for pid in self.workers():
            try:
                total += memory(pid).pss
            except (FileNotFoundError, ProcessLookupError):
                continue
        return total / MEBIBYTE

    def own(self) -> float:
        """MiB of private dirty memory of the daemon itself."""
        return memory(self.process.pid).private_dirty / MEBIBYTE

    def loads(self) -> int:
        self.log.flush()
        return len(re.findall(r"loading → HOT", (self.folder / "log").read_text()))

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            self.listener.close()
            self.log.close()


@contextmanager
def instance(world: World, models: dict[str, Path], **settings: object) -> Iterator[Instance]:
    with tempfile.TemporaryDirectory(prefix="nsorch-many-") as folder:
        one = Instance(world, Path(folder), models, **settings)
        try:
            yield one
        finally:
            one.close()


@contextmanager
def sampled(read, every: float = 0.1) -> Iterator[list[float]]:
    """Samples of ``read`` taken all the while."""
    samples: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every):
            samples.append(read())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def around(one: Instance, names: list[str], seconds: float) -> Counter[str]:
    """Random asks by several clients; how many ended how."""
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + seconds

    def client(seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < end:
            try:
                one.ask(chance.choice(names))
                outcomes["answer"] += 1
            except OrchError as error:
                outcomes[error.problem] += 1

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@benchmark(40, "many", f"{REGISTERED} registered models, {REAL} of them asked at random, memory for four", "the bound")
def many(world: World) -> Iterator[Finding]:
    seconds = 600.0 if world.long else 20.0
    with tempfile.TemporaryDirectory(prefix="nsorch-tiny-") as folder:
        names = [f"tiny{n}" for n in range(REAL)]
        models = {name: tiny_genai_folder(Path(folder) / name, seed=n) for n, name in enumerate(names)}
        models |= {f"absent{n}": Path(folder) / f"absent{n}" for n in range(REGISTERED - REAL)}
        with instance(world, models, MemoryBudget=BUDGET, MaxSwapDelay="500ms") as one:
            around(one, names, seconds / 5)  # every model was measured, every cache filled
            before = one.own()
            with sampled(one.held) as held:
                outcomes = around(one, names, seconds)
            after = one.own()
            asks = sum(outcomes.values())
            yield Row("asks that ended, per second", "1/s", [asks / seconds])
            yield Row("asks without an answer or a typed error", "asks", [float(outcomes["internal"])], [0.0])
            yield Row("workers' memory, most of all samples", "MiB", [max(held)], [BUDGET / MEBIBYTE])
            yield Row("daemon's private dirty memory, growth", "MiB", [max(0.0, after - before)], [FLAT])
            yield Note(f"{asks} asks in {seconds:.0f} s: {dict(outcomes)}; {one.loads()} loads; {len(held)} samples.")
            if max(held) > BUDGET / MEBIBYTE:
                raise BenchError(f"the budget was exceeded: {max(held):.0f} of {BUDGET / MEBIBYTE:.0f} MiB")


def contest(world: World, models: dict[str, Path], delay: float, asks: int) -> tuple[float, float, int]:
    """Seconds for two closed loops, the longest wait of one ask, and how often a model was loaded."""
    waits: list[float] = []
    with instance(world, models, MemoryBudget="70M", MaxSwapDelay=f"{delay * 1000:.0f}ms") as one:

        def client(name: str) -> None:
            for _ in range(asks):
                began = time.monotonic()
                one.ask(name, 64)
                waits.append(time.monotonic() - began)

        threads = [threading.Thread(target=client, args=(name,)) for name in models]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.monotonic() - began, max(waits), one.loads()


@benchmark(41, "fairness", "Two clients on two models that do not fit together", "first come, first served")
def fairness(world: World) -> Iterator[Finding]:
    asks, delay = (100, 2.0) if world.long else (100, 1.0)
    with tempfile.TemporaryDirectory(prefix="nsorch-two-") as folder:
        models = {name: tiny_genai_folder(Path(folder) / name) for name in ("a", "b")}
        ours, waits, loads = contest(world, models, delay, asks)
        theirs, their_waits, their_loads = contest(world, models, 0.0, asks)
    yield Row(f"asks per second, {asks} of each", "1/s", [2 * asks / ours], [2 * asks / theirs])
    yield Row("longest wait of one ask", "s", [waits], [their_waits])
    yield Row("loads", "loads", [float(loads)], [float(their_loads)])
    yield Note(
        f"MaxSwapDelay={delay:g} s, so at most {ours / delay + 3:.0f} loads; a wait is bounded by it and a swap."
    )
    if loads > ours / delay + 3:
        raise BenchError(f"{loads} loads in {ours:.1f} s")


@benchmark(42, "cycles", "Loading and unloading SmolLM2, again and again", "after the first cycles")
def cycles(world: World) -> Iterator[Finding]:
    count = 500 if world.long else 20
    with instance(world, {"one": world.model}, Mode="dynamic", DefaultModel="one") as one:

        def cycle() -> None:
            one.ask("one", 2)
            wait_until(lambda: not one.workers(), 30)

        def seen() -> tuple[float, int, int]:
            files = sum(len(names) for _, _, names in os.walk(one.folder))
            return one.own(), len(list(Path(f"/proc/{one.process.pid}/fd").iterdir())), files

        for _ in range(5):
            cycle()
        memory_before, fds_before, files_before = seen()
        began = time.monotonic()
        for _ in range(count):
            cycle()
        took = time.monotonic() - began
        memory_after, fds_after, files_after = seen()
    yield Row(f"daemon's private dirty memory after {count} cycles", "MiB", [memory_after], [memory_before])
    yield Row("daemon's descriptors", "fds", [float(fds_after)], [float(fds_before)])
    yield Row("files of ours", "files", [float(files_after)], [float(files_before)])
    yield Row("one cycle: ask, answer, gone", "s", [took / count])


CANCELLED = 250.0
"""Milliseconds in which whatever nobody wants any more must have ended."""


def sent(one: Instance, limit: int) -> socket.socket:
    """An ask that is sent, and nothing more; closing it is leaving."""
    body = json.dumps(chat("Tell me a long story.", model="one", max_tokens=limit, stream=True)).encode()
    client = connect(one.path)
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
    client.sendall(body)
    return client


def until_over(client: socket.socket, over: Callable[[], bool]) -> float:
    """Milliseconds from the moment at which ``client`` leaves."""
    began = time.monotonic()
    client.close()
    wait_until(over, 30)
    return 1000 * (time.monotonic() - began)


@benchmark(43, "leaving", "Clients that leave: until what they wanted has ended", f"the bound of {CANCELLED:.0f} ms")
def leaving(world: World) -> Iterator[Finding]:
    loads, waits, answers = [], [], []
    with instance(world, {"one": world.model}, Mode="dynamic", DefaultModel="one") as one:

        def status() -> dict[str, Any]:
            found: dict[str, Any] = one.call("GET", "/orch/models/one")
            return found

        for _ in range(2 * world.runs):
            client = sent(one, 8)
            wait_until(lambda: status()["phase"] == "loading" and one.workers(), 30)
            loads.append(until_over(client, lambda: not one.workers() and status()["phase"] == "COLD"))
        writing = sent(one, 100_000)
        wait_until(lambda: status()["running"] == 1, 30)
        for _ in range(2 * world.runs):
            client = sent(one, 8)
            wait_until(lambda: status()["waiting"] == 1, 30)
            waits.append(until_over(client, lambda: status()["waiting"] == 0))
        writing.close()
        wait_until(lambda: not one.workers(), 30)
        for _ in range(2 * world.runs):
            client = sent(one, 100_000)
            wait_until(lambda: status()["running"] == 1, 30)
            client.recv(1)
            answers.append(until_over(client, lambda: status()["running"] == 0))
    yield Row("a load: until its process is gone", "ms", loads, [CANCELLED])
    yield Row("an ask that waits", "ms", waits, [CANCELLED])
    yield Row("an answer", "ms", answers, [CANCELLED])
    worst = max(*loads, *waits, *answers)
    yield Note(f"The longest of {len(loads + waits + answers)} took {worst:.0f} ms.")
    if max(loads) > CANCELLED or max(waits) > CANCELLED:
        raise BenchError(f"a client that left was minded {worst:.0f} ms later")
