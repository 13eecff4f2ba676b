"""Memory before, hot, and after each mode's idle; what comes back, and how fast.

Owns the cycles: one mode after the other, each alone on the machine, because PSS divides what is shared among those
that run. Hot is read in the middle of an answer. Sums are of all our processes: daemon and worker.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

from tests.bench import ask, bare
from tests.bench.kernel import MEBIBYTE, Memory, marked, memory
from tests.bench.registry import BenchError, Finding, Note, Row, benchmark
from tests.bench.world import STORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.orchestrator import Orchestrator
    from tests.bench.world import World

LIMIT, MIDWAY = 48, 16
IDLE = 0.2
REST = {
    "dynamic": ("COLD",),
    "persistent": ("HOT",),
    "timeout": ("COLD",),
    "dummy-swap": ("PARKED",),
    "hibernate": ("HIBERNATED", "COLD"),
}
LEAST_CYCLES = 3

Samples = dict[str, list[float]]


def _add(samples: Samples, name: str, taken: Memory) -> None:
    samples[f"{name}, PSS"].append(taken.pss / MEBIBYTE)
    samples[f"{name}, private dirty"].append(taken.private_dirty / MEBIBYTE)


def _bare(world: World, cycles: int) -> Samples:
    samples: Samples = defaultdict(list)
    with bare.loop(world) as loop:
        _add(samples, "before", loop.memory())
        for _ in range(cycles):
            loop.load()
            _first, _rate, text, hot = loop.answer(STORY, LIMIT, MIDWAY)
            world.same(STORY, LIMIT, text, "the bare loop")
            samples["ms"].append(loop.drop() * 1000)
            after = loop.memory()
            _add(samples, "hot", hot)
            _add(samples, "after", after)
            samples["back"].append(100 * (hot.pss - after.pss) / hot.pss)
    return samples


def _cycle(world: World, service: Orchestrator, samples: Samples) -> str:
    """Ask, rest, read; the phase in which the mode came to rest."""
    hot: list[Memory] = []
    answer = ask.raw(service, STORY, LIMIT, MIDWAY, lambda: hot.append(service.worker_memory()))
    world.same(STORY, LIMIT, answer.text, f"mode {service.mode}")
    if not hot:
        raise BenchError(f"the answer has fewer than {MIDWAY} pieces; the hot memory could not be read within it")
    if service.mode == "persistent":
        time.sleep(2 * IDLE)
    status = service.wait_phase(*REST[service.mode])
    daemon, worker = memory(service.pid), service.worker_memory(status)
    _add(samples, "hot", hot[0].plus(daemon))
    _add(samples, "after", worker.plus(daemon))
    samples["back"].append(100 * (hot[0].pss - worker.pss) / hot[0].pss)
    if service.mode != "persistent":
        samples["ms"].append(status["freed"]["seconds"] * 1000)
    return status["phase"]


def _alone(world: World, service: Orchestrator, samples: Samples) -> None:
    """The daemon with nothing loaded, which looking at it starts; then its idle exit, and what is left of us."""
    service.arm()
    service.wait_phase("COLD")
    _add(samples, "before", memory(service.pid))
    service.settings(idle_exit="10ms")
    service.call("POST", "/orch/reload")
    service.wait_exit()
    samples["asleep"].append(sum(memory(pid).pss for pid in marked(world.marker)) / MEBIBYTE)
    service.settings()


@benchmark(30, "memory", "Memory", "the bare loop: runtime imported, in its answer, and after del model; gc.collect()")
def measure(world: World) -> Iterator[Finding]:
    """Rows of the daemon alone, then of each mode."""
    cycles = max(LEAST_CYCLES, world.runs)
    peer = _bare(world, cycles)
    modes: dict[str, Samples] = {}
    before: Samples = defaultdict(list)
    phase = ""
    for mode, rest in REST.items():
        keys = {} if mode in {"dynamic", "persistent"} else {"IdleSec": f"{IDLE * 1000:.0f}ms"}
        service = world.orchestrator(f"memory-{mode}", mode=mode, **keys)
        for _ in range(cycles if mode == "timeout" else 0):
            _alone(world, service, before)
        service.arm()
        service.wait_phase(*rest[:1], "COLD")
        samples = modes[mode] = defaultdict(list)
        for _ in range(cycles):
            phase = _cycle(world, service, samples)
        before["grown"].append(memory(service.pid).private_dirty / MEBIBYTE)
        world.close(service)

    for kind in ("PSS", "private dirty"):
        yield Row(f"before: daemon alone, {kind}", "MiB", before[f"before, {kind}"], peer[f"before, {kind}"])
    # A model that hibernates is loaded from its prepared copy, and is another thing when it is hot.
    for name, members in (("hot", set(modes) - {"hibernate"}), ("hibernate: hot", {"hibernate"})):
        for kind in ("PSS", "private dirty"):
            row = [sample for mode in modes if mode in members for sample in modes[mode][f"hot, {kind}"]]
            yield Row(f"{name}, all processes, {kind}", "MiB", row, peer[f"hot, {kind}"])
    for mode, samples in modes.items():
        for kind in ("PSS", "private dirty"):
            row = samples[f"after, {kind}"]
            yield Row(f"{mode}: after idle, all processes, {kind}", "MiB", row, peer[f"after, {kind}"])
        yield Row(f"{mode}: given back of the worker's hot PSS", "%", samples["back"], peer["back"])
        if samples["ms"]:
            yield Row(f"{mode}: time to give back", "ms", samples["ms"], peer["ms"])
    yield Row(f"daemon alone after {cycles} cycles, private dirty", "MiB", before["grown"])
    yield Row("after the daemon's idle exit, all processes, PSS", "MiB", before["asleep"], peer["after, PSS"])
    if phase == "COLD":
        yield Note("hibernate: the runtime repacks this model's weights, so the mode unloads it instead.")
