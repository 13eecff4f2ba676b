"""Very many clients at once: are all answered, do those who read slowly hold up the others, what does it cost?

Owns a crowd of streams on one daemon. What is measured is the daemon and not a model, so the crowd's model is a fake
one that writes as fast as it is read; one more crowd asks the real model. The peer of slow readers is the same crowd
with the same long answers, where everybody reads.
"""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

from tests.bench.cases.scheduling import Instance
from tests.bench.kernel import MEBIBYTE, memory
from tests.bench.registry import BenchError, Finding, Note, Row, benchmark, interleave
from tests.bench.world import PROMPT
from tests.support_crowd import Outcome, crowd
from tests.support_daemon import chat, wait_until
from tests.support_fake import fake_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.bench.world import World

MANY, SLOW = 256, 32
TOKENS, REAL_TOKENS = 20, 4
LONG = chat("x" * 2000, model="fake", max_tokens=300)
"""Half a megabyte: more than the socket and its buffers hold."""
ROOM = {"MaxStreams": 1000, "MaxQueue": 1000, "Mode": "persistent"}


class Peak(threading.Thread):
    """The most memory a process takes, in MiB, until stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.pid, self.most, self._over = pid, 0.0, threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, memory(self.pid).pss / MEBIBYTE)

    def stop(self) -> float:
        self._over.set()
        self.join()
        return self.most


class Crowds:
    """Crowds on one daemon with a fake model."""

    def __init__(self, world: World, folder: Path, many: int, slow: int) -> None:
        self.many, self.slow = many, slow
        folder.mkdir()
        model = folder / "fake.json"
        model.write_text(json.dumps({"tokens": -1, "context_length": 10_000}))
        runtimes = {"NSORCH_RUNTIMES": "genai=tests.workers.fake_runtime"}
        own = SimpleNamespace(environment=world.environment | fake_environment() | runtimes)
        self.instance = Instance(own, folder, {"fake": model}, **ROOM)
        self.others: dict[bool, list[list[Outcome]]] = {True: [], False: []}
        self.peaks: dict[bool, list[float]] = {True: [], False: []}

    def gather(self, *, reading: bool) -> float:
        """The slower clients' longest answer, the hundredth of them left out."""
        bodies = [chat(f"word{number} more", model="fake", max_tokens=TOKENS) for number in range(self.many)]
        peak = Peak(self.instance.process.pid)
        peak.start()
        try:
            if reading:
                outcomes = asyncio.run(crowd(self.instance.path, [LONG] * self.slow + bodies))[self.slow :]
            else:
                outcomes = asyncio.run(crowd(self.instance.path, [LONG, *bodies], silent=self.slow))[1:]
        finally:
            self.peaks[reading].append(peak.stop())
        for number, outcome in enumerate(outcomes):
            if not outcome.done or outcome.text.split() != [f"word{number}", "more"] * (TOKENS // 2):
                raise BenchError(f"client {number} was not answered: {outcome.status} {outcome.problem}")
        self.others[reading].append(outcomes)
        wait_until(self._quiet)
        return last_of(outcomes)

    def _quiet(self) -> bool:
        (status,) = self.instance.call("GET", "/orch/models")
        return status["running"] + status["waiting"] == 0


def nearly_all(values: Sequence[float]) -> float:
    """The 99th percentile."""
    return sorted(values)[max(0, -(-len(values) * 99 // 100) - 1)]


def last_of(outcomes: Sequence[Outcome]) -> float:
    return nearly_all([outcome.last for outcome in outcomes])


def measure(world: World, folder: Path, many: int, slow: int, runs: int) -> Iterator[Finding]:
    """Rows of the fake model's crowd."""
    crowds = Crowds(world, folder, many, slow)
    try:
        crowds.gather(reading=True)
        before = memory(crowds.instance.process.pid).pss / MEBIBYTE
        crowds.others[True].clear()
        crowds.peaks[True].clear()
        probes = {"slow": lambda: crowds.gather(reading=False), "all read": lambda: crowds.gather(reading=True)}
        samples = interleave(probes, runs, warm_ups=0)
        after = memory(crowds.instance.process.pid).pss / MEBIBYTE
    finally:
        crowds.instance.close()
    firsts, gaps = (
        {
            reading: [nearly_all([getattr(one, name) for one in outcomes]) for outcomes in crowds.others[reading]]
            for reading in (True, False)
        }
        for name in ("first", "gap")
    )
    label = f"{many} streams beside {slow} that are not read"
    yield Row(f"{label}: p99 to the last token", "s", samples["slow"], samples["all read"])
    yield Row(f"{label}: p99 to the first token", "s", firsts[False], firsts[True])
    yield Row(f"{label}: p99 of each one's longest gap", "s", gaps[False], gaps[True])
    yield Row(f"{label}: the daemon's memory at the most", "MiB", crowds.peaks[False], crowds.peaks[True])
    yield Row("the daemon's memory afterwards, and before", "MiB", [after], [before])


@benchmark(60, "clients", f"{MANY} streaming clients at once", "the same crowd, where everybody reads")
def clients(world: World) -> Iterator[Finding]:
    """Rows of a crowd, and of one for the real model."""
    yield from measure(world, world.folder / "clients-fake", MANY, SLOW, world.runs)
    folder = world.folder / "clients-real"
    folder.mkdir()
    instance = Instance(world, folder, {"real": world.model}, **ROOM)
    try:
        instance.ask("real")
        outcomes = asyncio.run(crowd(instance.path, [chat(PROMPT, model="real", max_tokens=REAL_TOKENS)] * MANY))
    finally:
        instance.close()
    answered = [outcome for outcome in outcomes if outcome.done]
    if len({outcome.text for outcome in answered}) > 1:
        raise BenchError("answers to one prompt differ")
    yield Row(f"{MANY} streams of {REAL_TOKENS} tokens by the model: p99 to the last token", "s", [last_of(answered)])
    yield Note(f"Of {MANY} streams by the model {len(answered)} were answered, and the rest refused.")
