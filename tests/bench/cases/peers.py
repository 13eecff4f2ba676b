"""llama-server with the weights that our model was made of, in turns with us: cold, warm, and while it writes.

Owns the three comparisons. Texts are not compared: the weights were rounded differently. Where there is no
llama-server the rows are missing, and a note says how to have them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench import ask, peers
from tests.bench.registry import BenchError, Finding, Note, Row, benchmark, interleave
from tests.bench.world import PROMPT, STORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.world import World

LIMIT = 16
LONG = 128
PREFIX = 500


@benchmark(50, "peers", "Beside llama-server", "llama-server (all cores, no warm-up run, one slot)")
def measure(world: World) -> Iterator[Finding]:
    """Rows beside the peer's."""
    program, gguf = peers.program(), peers.gguf_of(world)
    if program is None or gguf is None:
        why = "no llama-server on PATH, and LLAMA_SERVER= names none" if program is None else "the GGUF is not known"
        yield Note(f"No rows: {why}.")
        return
    asleep = world.orchestrator("peers-asleep", IdleSec="1h")
    service = world.orchestrator("peers", IdleSec="1h").arm()
    rounds = iter(range(1, 1 << 30))
    prefix = peers.words(PREFIX)

    def nothing() -> float:
        asleep.arm()
        try:
            return ask.raw(asleep, PROMPT, LIMIT).first
        finally:
            asleep.stop()

    def peer_nothing() -> float:
        with peers.llama_server(world, gguf) as server:
            return server.ask(PROMPT, LIMIT, from_start=True).first

    def cold() -> float:
        service.unload()
        return ask.raw(service, PROMPT, LIMIT).first

    samples = interleave({"nothing": nothing, "cold": cold, "peer": peer_nothing}, world.runs)
    yield Row("nothing running → first token; from exec", "s", samples["nothing"], samples["peer"])
    yield Row("daemon awake, COLD → first token; from exec", "s", samples["cold"], samples["peer"])
    with peers.llama_server(world, gguf) as server:

        def theirs(prompt: str, limit: int) -> ask.Answer:
            return server.ask(prompt, limit)

        def ours(prompt: str, limit: int) -> ask.Answer:
            return ask.raw(service, prompt, limit)

        yield from _warm({"ours": ours, "theirs": theirs}, world.runs, prefix, rounds)
    yield Note(f"Peer: {peers.version()}, {gguf.name}.")
    world.close(asleep, service)


def _warm(
    contestants: dict[str, Callable[[str, int], ask.Answer]], runs: int, prefix: str, rounds: Iterator[int]
) -> Iterator[Finding]:
    def first(who: str, prompt: Callable[[], str]) -> Callable[[], float]:
        return lambda: contestants[who](prompt(), LIMIT).first

    def rate(who: str) -> float:
        answer = contestants[who](STORY, LONG)
        if not answer.rate:
            raise BenchError(f"{who}: the answer has one token; its speed cannot be told")
        return answer.rate

    def follow_up() -> str:
        return f"{prefix}\nQuestion {next(rounds)}: what is it about?"

    def fresh() -> str:
        return f"{next(rounds)}. {prefix}\nWhat is it about?"

    for answer in contestants.values():
        answer(follow_up(), LIMIT)
    for name, prompt in (
        (f"warm, the same {PREFIX}-token prefix → first token", follow_up),
        (f"warm, {PREFIX} new tokens → first token", fresh),
    ):
        samples = interleave({who: first(who, prompt) for who in contestants}, runs)
        yield Row(name, "s", samples["ours"], samples["theirs"])
    samples = interleave({who: lambda who=who: rate(who) for who in contestants}, runs)
    yield Row("decode, one stream", "tokens/s", samples["ours"], samples["theirs"])
