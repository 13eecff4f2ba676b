"""A model at rest: what it still holds, how fast it wakes beside what the memory allows, and that it wakes the same.

Owns the model of a gigabyte, the floor that a wake is compared with (its weights read once at the memory's speed, then
one warm forward pass) and the cycles during which the kernel takes the pages away. Measured in workers, without a
daemon: its milliseconds are in the rows of ``first_token``.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuroshell_orch.workers import benching, copies, prepared
from neuroshell_orch.workers.launch import ChildLauncher, WorkerSpec
from neuroshell_orch.workers.process import Worker
from neuroshell_orch.workers.protocol import ChatMessage, Generate, Load, Piece
from tests.bench.big import big_model
from tests.bench.kernel import cores
from tests.bench.pressure import Group, cached, group, take_pages
from tests.bench.registry import BenchError, Finding, Note, Row, benchmark

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.world import World

BIG = 1024
"""MiB of weights."""
CYCLES, BIG_CYCLES = 10, 3
"""A gigabyte is read from disk in each; ``--long`` gives the big model as many as the other."""
LIMIT = 8
MEBIBYTE = 1 << 20
HOME = Path(__file__).resolve().parents[3] / "build" / "bench"
"""Not under /tmp, which may itself lie in memory."""


def bandwidth(size: int = 512 << 20) -> float:
    """Bytes a second that all cores together can read from memory; the best of a few."""
    count = cores()
    parts = np.array_split(np.ones(size // 8, np.int64), count)
    best = 0.0
    for _ in range(4):
        threads = [threading.Thread(target=part.max) for part in parts]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = max(best, size / (time.perf_counter() - began))
    return best


@contextmanager
def _home(world: World) -> Iterator[Path]:
    home = HOME / world.folder.name
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@benchmark(35, "hibernate", "Hibernation", "the rows say what each is compared with")
def measure(world: World) -> Iterator[Finding]:
    """Rows of the run's own model."""
    with _home(world) as home:
        yield from model_rows(world.model, world.model.name, home, world.runs, CYCLES)


@benchmark(36, "hibernate-big", "Hibernation of a big model", "the rows say what each is compared with")
def measure_big(world: World) -> Iterator[Finding]:
    """Rows of a model of a gigabyte."""
    with _home(world) as home:
        big = big_model(home, BIG, world.model)
        count = CYCLES if world.long else BIG_CYCLES
        yield from model_rows(big, f"{BIG} MiB of weights", home, world.runs, count)


def model_rows(folder: Path, name: str, home: Path, runs: int, count: int) -> Iterator[Finding]:
    """One model's rows. Copies are made in ``home``."""
    path, manifest = asyncio.run(prepared.make(home / "cache", folder))
    load = Load("bench", "genai", str(path), options={"device": "cpu"}, keep_prefix=False)
    rounds = [asyncio.run(benching.measure(load, prepared=True, rounds=1)).rungs for _ in range(runs)]
    speed = bandwidth()
    if "HIBERNATED" not in rounds[0]:
        yield Note(f"{name}: too small to hibernate.")
        return
    weights = [found["HOT"].pss - found["HIBERNATED"].pss for found in rounds]
    floors = [size / speed + found["HOT"].first for size, found in zip(weights, rounds, strict=True)]
    first = [found["HIBERNATED"].first for found in rounds]
    yield Row(f"{name}: wake to first token; floor", "s", first, floors)
    yield Row(
        f"{name}: wake; load from nothing",
        "s",
        [found["HIBERNATED"].ready for found in rounds],
        [found["COLD"].ready for found in rounds],
    )
    yield Row(f"{name}: wake to first token; from nothing", "s", first, [found["COLD"].first for found in rounds])
    for rung, title in (("HOT", "hot"), ("HIBERNATED", "hibernated")):
        row = [(found[rung].private_dirty - found["PARKED"].private_dirty) / MEBIBYTE for found in rounds]
        yield Row(f"{name}: {title}, private dirty beyond a standby worker", "MiB", row)
    yield Note(
        f"{name}: floor = {weights[0] / MEBIBYTE:.0f} MiB given back ÷ {speed / 1e9:.1f} GB/s (all cores reading)"
        f" + a warm forward pass of {rounds[0]['HOT'].first:.3f} s; the prepared copy has"
        f" {manifest.size / MEBIBYTE:.0f} MiB on disk, made in {manifest.seconds:.1f} s."
    )
    seconds, how = asyncio.run(cycles(load, path, count))
    yield Row(f"{name}: wake after the kernel took the pages", "s", seconds)
    yield Note(f"{name}: {count} cycles, in each of which {how}: one answer, {count + 1} times.")


async def cycles(load: Load, folder: Path, count: int) -> tuple[list[float], str]:
    """Hibernate, have the pages taken, wake, answer; seconds of each wake. Raises BenchError if an answer differs."""
    data = [folder / name for name in copies.examine(folder)[0].files if name.endswith(".data")]
    seconds: list[float] = []
    with group(f"nsorch-bench-{time.monotonic_ns()}") as squeezed:
        worker = await Worker.start(ChildLauncher(), WorkerSpec("bench", 3))
        try:
            hello = await worker.greeted
            if squeezed is not None and hello is not None:
                squeezed.take(hello.pid)
            for path in data:
                take_pages(path)  # so that what the worker reads is counted as its own
            await worker.load(load)
            reference = await _told(worker)
            left = 0.0
            for _ in range(count):
                await worker.hibernate()
                left = max(left, _take(squeezed, data))
                began = time.monotonic()
                await worker.wake()
                seconds.append(time.monotonic() - began)
                if (text := await _told(worker)) != reference:
                    raise BenchError(f"after a wake the model says {text!r} instead of {reference!r}")
        finally:
            await worker.stop()
    by = "a control group's limit" if squeezed is not None else "advice"
    return seconds, f"the pages were taken by {by} ({100 * left:.0f} % of the file were left at the most)"


def _take(squeezed: Group | None, data: list[Path]) -> float:
    """Have the pages taken, and say which part of them is left."""
    if squeezed is not None:
        squeezed.squeeze(64 << 20)
        squeezed.relax()
    if max(map(cached, data)) > 0.5:
        for path in data:
            take_pages(path)
    return max(map(cached, data))


async def _told(worker: Worker) -> str:
    request = Generate(worker.next_job(), [ChatMessage("user", benching.QUESTION)], max_tokens=LIMIT, temperature=0)
    async with aclosing(worker.generate(request)) as answer:
        return "".join([part.text async for part in answer if isinstance(part, Piece)])
