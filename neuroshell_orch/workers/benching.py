"""What one model costs on each rung of the ladder, measured in workers of its own, apart from any daemon.

Owns the order of the steps and the figures. The workers are the ones that serve, as child processes; the figures are
medians over a few rounds; ``costs`` is the short form, once and without a look at speed. A model that cannot hibernate
simply has no such rung. Must not know how figures are shown.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import aclosing, suppress
from statistics import median
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.core.figures import Figures
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.launch import ChildLauncher, WorkerSpec
from neuroshell_orch.workers.process import Worker
from neuroshell_orch.workers.protocol import ChatMessage, Embed, Generate, Infer, Load, Loaded, Piece, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

QUESTION: Final = "What is the capital of France? Tell me about its history in a few sentences."
TOKENS: Final = 64
FEW: Final = 16
"""Tokens of the one answer for ``costs``: for the memory that an answer takes, not for its speed."""
SECONDS: Final = 5.0
"""How long ``costs`` goes on taking a next step. A step that was begun is done; small models are through in half."""
TEXT: Final = "Each sentence becomes a vector of numbers, and those of like meaning lie close together."
_BYTES: Final = {"BOOL": 1, "BF16": 2, "BYTES": 0}


class Rung(msgspec.Struct, frozen=True):
    """Seconds to be ready to answer from here, seconds to the first token (or the answer), bytes while here."""

    ready: float
    first: float
    pss: int
    private_dirty: int


class Benchmark(msgspec.Struct, frozen=True):
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
) -> Benchmark:
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
    return Benchmark(
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


async def costs(load: Load, seconds: float = SECONDS) -> Figures:
    """What a model costs, measured once and briefly: what is left out for lack of time is zero.

    Raises OrchError as a load or an answer does.
    """
    samples, began = _Samples(), time.monotonic()
    await _once(load, samples, lambda: time.monotonic() - began < seconds)
    if time.monotonic() - began + 2 * samples.take("PARKED ready") < seconds:
        await _from_nothing(load, samples, answers=False)
    found = {name: values[0] for name, values in samples.of.items()}
    return Figures(
        hot=int(found.get("HOT pss", 0)),
        hibernated=int(found.get("HIBERNATED pss", 0)),
        parked=int(found.get("PARKED pss", 0)),
        wake_cold=found.get("COLD ready", 0.0),
        wake_parked=found["PARKED ready"],
        wake_hibernated=found.get("HIBERNATED ready", 0.0),
    )


async def _once(load: Load, samples: _Samples, go_on: Callable[[], bool]) -> None:
    """Up and down the ladder, with one short answer."""
    worker = await Worker.start(ChildLauncher(), WorkerSpec("bench", 1))
    try:
        loaded = await _park_and_load(worker, load, samples)
        if go_on():
            with suppress(OrchError):  # nothing can be made up for its inputs: what it holds when loaded is known then
                await _answer(worker, load, loaded, tokens=FEW)
        samples.memory("HOT", worker)
        if go_on() and loaded.can_hibernate and loaded.device == "cpu":
            await worker.hibernate()
            samples.memory("HIBERNATED", worker)
            samples.add("HIBERNATED ready", (await worker.wake()).seconds)
    finally:
        await worker.stop()


async def _park_and_load(worker: Worker, load: Load, samples: _Samples) -> Loaded:
    await worker.standby(load.runtime, load.path)
    samples.memory("PARKED", worker)
    began = time.monotonic()
    loaded = await worker.load(load)
    samples.add("PARKED ready", time.monotonic() - began)
    return loaded


async def _from_nothing(load: Load, samples: _Samples, *, answers: bool = True) -> None:
    began = time.monotonic()
    worker = await Worker.start(ChildLauncher(), WorkerSpec("bench", 1))
    try:
        loaded = await worker.load(load)
        ready = samples.add("COLD ready", time.monotonic() - began)
        if answers:
            first, _ = await _answer(worker, load, loaded)
            samples.add("COLD first", ready + first)
    finally:
        await worker.stop()


async def _ladder(load: Load, samples: _Samples) -> Loaded:
    worker = await Worker.start(ChildLauncher(), WorkerSpec("bench", 2))
    try:
        loaded = await _park_and_load(worker, load, samples)
        first, _ = await _answer(worker, load, loaded)
        samples.add("PARKED first", samples.of["PARKED ready"][-1] + first)
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


async def _answer(
    worker: Worker, load: Load, loaded: Loaded, lead: str = "", tokens: int = TOKENS
) -> tuple[float, float]:
    """Seconds to the first token and tokens a second after it; or seconds of one answer, and answers a second."""
    began = time.monotonic()
    if load.runtime == "genai":
        first = last = 0.0
        said = 0
        request = Generate(worker.next_job(), [ChatMessage("user", lead + QUESTION)], max_tokens=tokens, temperature=0)
        async with aclosing(worker.generate(request)) as answer:
            async for part in answer:
                if isinstance(part, Piece):
                    last = time.monotonic()
                    first = first or last
                    said += part.tokens
        first = first or time.monotonic()
        return first - began, (said - 1) / (last - first) if last > first and said > 1 else 0.0
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
