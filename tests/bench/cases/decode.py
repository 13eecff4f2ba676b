"""Tokens a second while an answer is written, after its first token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench import ask, bare
from tests.bench.registry import BenchError, Finding, Row, benchmark, interleave
from tests.bench.world import STORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.world import World

LIMIT = 128


@benchmark(20, "decode", "Decoding", "the bare loop, timed within itself")
def decode(world: World) -> Iterator[Finding]:
    """One stream through the socket beside the loop that it is made of."""
    service = world.orchestrator("decode", IdleSec="1h").arm()
    with bare.loop(world) as loop:
        loop.load()

        def ours() -> float:
            answer = ask.raw(service, STORY, LIMIT)
            world.same(STORY, LIMIT, answer.text, "the socket")
            return _enough(answer.rate)

        def theirs() -> float:
            _first, rate, text, _memory = loop.answer(STORY, LIMIT)
            world.same(STORY, LIMIT, text, "the bare loop")
            return _enough(rate)

        samples = interleave({"ours": ours, "theirs": theirs}, world.runs)
    yield Row("decode, one stream", "tokens/s", samples["ours"], samples["theirs"])
    world.close(service)


def _enough(rate: float) -> float:
    if not rate:
        raise BenchError("the model answered with one token; its speed cannot be told")
    return rate
