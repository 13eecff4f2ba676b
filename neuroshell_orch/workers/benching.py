"""What one model costs on each rung of the ladder, measured in workers of its own, apart from any daemon.

Owns the order of the steps and the figures. The workers are the ones that serve, as child processes; the figures are
medians over a few rounds. A model that cannot hibernate simply has no such rung. Must not know how figures are shown.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import aclosing
from statistics import median
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.launch import ChildLauncher, WorkerSpec
from neuroshell_orch.workers.process import Worker
from neuroshell_orch.workers.protocol import ChatMessage, Embed, Generate, Infer, Load, Loaded, Piece, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

QUESTION: Final = "What is the capital of France? Tell me about its history in a few sentences."
TOKENS: Final = 64
TEXT: Final = "Each sentence becomes a vector of numbers, and those of like meaning lie close together."
_BYTES: Final = {"BOOL": 1, "BF16": 2, "BYTES": 0}


class Rung(msgspec.Struct, frozen=True):
    """Seconds to be ready to answer from here, seconds to the first token (or the answer), bytes while here."""

    ready: float
    first: float
    pss: int
    private_dirty: int


class Figures(msgspec.Struct, frozen=True):
    """All that was measured. ``rate``: tokens (or texts, or runs) a second while HOT."""

    model: str
    runtime_version: str
    device: str
    threads: int
    prepared: bool
    rounds: int
    rate: float
    hibernate_seconds: float
    freed: int
    rungs: dict[str, Rung]


class _Samples:
    def __init__(self) -> None:
        self.of: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, value: float) -> float:
        self.of[name].append(value)
        return value

    def take(self, name: str) -> float:
        return median(self.of[name])

    def rung(self, name: str) -> Rung:
        pss, dirty = (int(self.take(f"{name} {what}")) if f"{name} pss" in self.of else 0 for what in ("pss", "dirty"))
        return Rung(self.take(f"{name} ready"), self.take(f"{name} first"), pss, dirty)

    def memory(self, name: str, worker: Worker) -> None:
        if (found := worker.memory()) is not None:
            self.add(f"{name} pss", found.pss)
            self.add(f"{name} dirty", found.private_dirty)


async def measure(
    load: Load, *, prepared: bool, rounds: int = 3, step: Callable[[str], None] = lambda _: None
) -> Figures:
    """Measure ``load``. Raises OrchError as a load or an answer does."""
    samples, loaded = _Samples(), Loaded(0.0, "")
    for number in range(rounds):
        step(f"round {number + 1} of {rounds}")
        await _from_nothing(load, samples)
        loaded = await _ladder(load, samples)
    rungs = {"COLD": samples.rung("COLD"), "PARKED": samples.rung("PARKED")}
    if "HIBERNATED ready" in samples.of:
        rungs["HIBERNATED"] = samples.rung("HIBERNATED")
    rungs["HOT"] = samples.rung("HOT")
    asleep = "HIBERNATED" in rungs
    return Figures(
        model=load.model,
        runtime_version=loaded.runtime_version,
        device=loaded.device,
        threads=load.threads,
        prepared=prepared,
        rounds=rounds,
        rate=samples.take("rate"),
        hibernate_seconds=samples.take("hibernate") if asleep else 0.0,
        freed=int(samples.take("freed")) if asleep else 0,
        rungs=rungs,
    )


async def _from_nothing(load: Load, samples: _Samples) -> None:
    began = time.monotonic()
    worker = await Worker.start(ChildLauncher(), WorkerSpec("bench", 1))
    try:
        loaded = await worker.load(load)
        ready = samples.add("COLD ready", time.monotonic() - began)
        first, _ = await _answer(worker, load, loaded)
        samples.add("COLD first", ready + first)
    finally:
        await worker.stop()


async def _ladder(load: Load, samples: _Samples) -> Loaded:
    worker = await Worker.start(ChildLauncher(), WorkerSpec("bench", 2))
    try:
        await worker.standby(load.runtime)
        samples.memory("PARKED", worker)
        began = time.monotonic()
        loaded = await worker.load(load)
        ready = samples.add("PARKED ready", time.monotonic() - began)
        first, _ = await _answer(worker, load, loaded)
        samples.add("PARKED first", ready + first)
        first, rate = await _answer(worker, load, loaded, "Once more: ")
        samples.add("HOT ready", 0.0)
        samples.add("HOT first", first)
        samples.add("rate", rate)
        samples.memory("HOT", worker)
        if loaded.can_hibernate and loaded.device == "cpu":
            asleep = await worker.hibernate()
            samples.add("hibernate", asleep.seconds)
            samples.add("freed", asleep.given_back)
            samples.memory("HIBERNATED", worker)
            began = time.monotonic()
            await worker.wake()
            ready = samples.add("HIBERNATED ready", time.monotonic() - began)
            first, _ = await _answer(worker, load, loaded)
            samples.add("HIBERNATED first", ready + first)
        return loaded
    finally:
        await worker.stop()


async def _answer(worker: Worker, load: Load, loaded: Loaded, lead: str = "") -> tuple[float, float]:
    """Seconds to the first token and tokens a second after it; or seconds of one answer, and answers a second."""
    began = time.monotonic()
    if load.runtime == "genai":
        first = last = 0.0
        tokens = 0
        request = Generate(worker.next_job(), [ChatMessage("user", lead + QUESTION)], max_tokens=TOKENS, temperature=0)
        async with aclosing(worker.generate(request)) as answer:
            async for part in answer:
                if isinstance(part, Piece):
                    last = time.monotonic()
                    first = first or last
                    tokens += part.tokens
        first = first or time.monotonic()
        return first - began, (tokens - 1) / (last - first) if last > first and tokens > 1 else 0.0
    if load.runtime == "encoder":
        await worker.embed(Embed(worker.next_job(), [TEXT]))
    else:
        await worker.infer(
            Infer(worker.next_job(), [_zeros(info.name, info.datatype, info.shape) for info in loaded.inputs])
        )
    seconds = time.monotonic() - began
    return seconds, 1 / seconds


def _zeros(name: str, datatype: str, shape: list[int]) -> Tensor:
    """Something to run a tensor model with. Raises OrchError where nothing can be made up."""
    digits = "".join(letter for letter in datatype if letter.isdigit())
    size = _BYTES.get(datatype, int(digits or 0) // 8)
    if not size:
        message = f"The input {name!r} has the type {datatype}: nothing can be made up for it."
        raise OrchError("unsupported", message, "Measure it with values of your own: nsorch infer.")
    full = [max(length, 1) for length in shape]
    count = 1
    for length in full:
        count *= length
    return Tensor(name, datatype, full, bytes(count * size))
