"""From the question to the first token, out of every warmth.

Owns how each state is reached before a sample and left after it. The clock runs from the first thing that the asker
does (exec of the command, or connect) to the first byte of the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench import ask, bare
from tests.bench.registry import Finding, Note, Row, benchmark, interleave
from tests.bench.world import PROMPT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.orchestrator import Orchestrator
    from tests.bench.world import World

LIMIT = 16
IDLE = "100ms"


class Probes:
    """One launcher's states, each on an instance of its own."""

    def __init__(self, world: World, launcher: str) -> None:
        self._world = world
        label = ", worker as a service" if launcher == "systemd" else ""
        self.timeout = world.orchestrator(f"{launcher}-timeout", launcher, IdleSec="1h").arm()
        self.asleep = world.orchestrator(f"{launcher}-asleep", launcher, IdleSec="1h")
        self.parked = world.orchestrator(f"{launcher}-parked", launcher, "dummy-swap", IdleSec=IDLE).arm()
        self.hibernated = world.orchestrator(f"{launcher}-hib", launcher, "hibernate", IdleSec=IDLE).arm()
        self.instances = [self.timeout, self.asleep, self.parked, self.hibernated]
        self.cold, self.parked_name = f"daemon awake, COLD{label}", f"PARKED{label}"
        self.timed: dict[str, Callable[[], float]] = {
            f"nothing running, nsorch ask{label}": self._command_from_nothing,
            f"nothing running, raw client{label}": self._raw_from_nothing,
            self.cold: self._cold,
            self.parked_name: self._parked,
        }
        ask.raw(self.hibernated, PROMPT, LIMIT)
        self.can_hibernate = self.hibernated.wait_phase("HIBERNATED", "COLD")["phase"] == "HIBERNATED"
        if self.can_hibernate:
            self.timed[f"HIBERNATED{label}"] = self._hibernated
        self.warm = {f"warm{label}": self._warm, f"warm, nsorch ask{label}": self._warm_command}

    def _raw(self, instance: Orchestrator, path: str) -> float:
        answer = ask.raw(instance, PROMPT, LIMIT)
        self._world.same(PROMPT, LIMIT, answer.text, path)
        return answer.first

    def _command(self, instance: Orchestrator, path: str) -> float:
        seconds, text = ask.by_command(instance, PROMPT, LIMIT)
        self._world.same(PROMPT, LIMIT, text, path)
        return seconds

    def _command_from_nothing(self) -> float:
        self.asleep.arm()
        try:
            return self._command(self.asleep, "nsorch ask from nothing")
        finally:
            self.asleep.stop()

    def _raw_from_nothing(self) -> float:
        self.asleep.arm()
        try:
            return self._raw(self.asleep, "the socket from nothing")
        finally:
            self.asleep.stop()

    def _cold(self) -> float:
        self.timeout.unload()
        return self._raw(self.timeout, "COLD")

    def _parked(self) -> float:
        if self.parked.status()["phase"] == "COLD":
            self._raw(self.parked, "COLD")
        self.parked.wait_phase("PARKED")
        return self._raw(self.parked, "PARKED")

    def _hibernated(self) -> float:
        self.hibernated.wait_phase("HIBERNATED")
        return self._raw(self.hibernated, "HIBERNATED")

    def _warm(self) -> float:
        if self.timeout.status()["phase"] != "HOT":
            self._raw(self.timeout, "COLD")
        return self._raw(self.timeout, "HOT")

    def _warm_command(self) -> float:
        if self.timeout.status()["phase"] != "HOT":
            self._raw(self.timeout, "COLD")
        return self._command(self.timeout, "nsorch ask, HOT")


@benchmark(
    10, "first-token", "First token", "a bare onnxruntime-genai script, from exec; where warm, its second answer"
)
def first_token(world: World) -> Iterator[Finding]:
    """Rows for each launcher beside the bare script."""
    sets = [Probes(world, launcher) for launcher in world.launchers]

    def script() -> float:
        seconds, text = bare.once(world, PROMPT, LIMIT)
        world.same(PROMPT, LIMIT, text, "the bare script")
        return seconds

    with bare.loop(world) as loop:
        loop.load()

        def again() -> float:
            seconds, _rate, text, _memory = loop.answer(PROMPT, LIMIT)
            world.same(PROMPT, LIMIT, text, "the bare loop")
            return seconds

        contestants: dict[str, Callable[[], float]] = {"script": script, "again": again}
        for probes in sets:
            contestants |= probes.timed | probes.warm
        samples = interleave(contestants, world.runs)
    for probes in sets:
        yield from (Row(name, "s", samples[name], samples["script"]) for name in probes.timed)
        yield from (Row(name, "s", samples[name], samples["again"]) for name in probes.warm)
    for probes in sets:
        cold = samples[probes.cold]
        yield Row(f"{probes.parked_name}, beside COLD", "s", samples[probes.parked_name], cold)
    if not all(probes.can_hibernate for probes in sets):
        yield Note("No row HIBERNATED: the runtime repacks this model's weights, so the mode unloads it instead.")
    world.close(*(instance for probes in sets for instance in probes.instances))
