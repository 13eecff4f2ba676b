"""The next question of a conversation: what is known of its beginning, and what that saves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench import ask
from tests.bench.peers import words
from tests.bench.registry import Finding, Note, Row, benchmark, interleave

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.orchestrator import Orchestrator
    from tests.bench.world import World

LIMIT = 16
PREFIX = 500


@benchmark(54, "warm", "Prompts that begin alike", "the same with KeepPrefix=no")
def measure(world: World) -> Iterator[Finding]:
    """First tokens of a hot model; every answer must be the same with and without."""
    keeps = world.orchestrator("warm-keeps", IdleSec="1h").arm()
    forgets = world.orchestrator("warm-forgets", IdleSec="1h")
    forgets.model_keys(KeepPrefix="no")
    forgets.arm()
    prefix = words(PREFIX)
    tokens: dict[str, int] = {}

    def first(service: Orchestrator, name: str) -> Callable[[], float]:
        questions = iter(range(1 << 30))

        def sample() -> float:
            prompt = f"{prefix}\nQuestion {next(questions)}: what is it about?"
            answer = ask.raw(service, prompt, LIMIT)
            world.same(prompt, LIMIT, answer.text, name)
            tokens[name] = answer.cached
            return answer.first

        return sample

    samples = interleave({"kept": first(keeps, "kept"), "new": first(forgets, "new")}, world.runs)
    yield Row(f"warm, the same {PREFIX}-token prefix → first token", "s", samples["kept"], samples["new"])
    yield Note(f"{tokens['kept']} tokens of the prompt were known, without it {tokens['new']}.")
    world.close(keeps, forgets)
