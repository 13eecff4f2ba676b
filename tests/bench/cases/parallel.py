"""Several answers of one model at once: how much they get together, and what a short one pays beside a long one."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import ask, bare
from tests.bench.registry import BenchError, Finding, Note, Row, benchmark, interleave
from tests.bench.world import PROMPT, STORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.orchestrator import Orchestrator
    from tests.bench.world import World

LIMIT = 128
SHORT = 8
PROMPTS = (
    STORY,
    "Explain in detail how bread is made.",
    "Write a long letter from a sailor to his mother.",
    "Describe a day in a small town by the sea.",
)


@benchmark(56, "parallel", "Four answers at once", "one stream of a model with Parallel=1; alone, for the short answer")
def measure(world: World) -> Iterator[Finding]:
    """Streams through the socket, all begun at once."""
    one = world.orchestrator("parallel-one", IdleSec="1h").arm()
    four = world.orchestrator("parallel-four", IdleSec="1h")
    four.model_keys(Parallel="4")
    four.arm()
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        together: list[float] = []

        def streams(service: Orchestrator, prompts: tuple[str, ...]) -> float:
            total, meanwhile = _total(world, pool, service, prompts)
            if len(prompts) == len(PROMPTS):
                together.append(meanwhile)
            return total

        samples = interleave(
            {
                "four": lambda: streams(four, PROMPTS),
                "two": lambda: streams(four, PROMPTS[:2]),
                "alone": lambda: streams(four, PROMPTS[:1]),
                "one": lambda: streams(one, PROMPTS[:1]),
            },
            world.runs,
        )
        for name, key in (("four streams, total", "four"), ("two streams, total", "two"), ("Parallel=4, one", "alone")):
            yield Row(name, "tokens/s", samples[key], samples["one"])
        yield Row("four streams, while all four are written", "tokens/s", together[-world.runs :], samples["one"])
        samples = interleave(
            {"beside": lambda: _short(world, four, pool), "alone": lambda: _short(world, four, None)}, world.runs
        )
        yield Row("a short answer beside a long one", "s", samples["beside"], samples["alone"])
    single, batch = _floor(world)
    yield Note(
        f"Floor: genai's own batch of four equal prompts has {batch:.3g} tokens/s, one {single:.3g}: "
        f"{batch / single:.2f} times as many;"
        f" a pass over four rows takes {4 * single / batch:.2f} times as long as one."
    )
    world.close(one, four)


def _total(
    world: World, pool: ThreadPoolExecutor, service: Orchestrator, prompts: tuple[str, ...]
) -> tuple[float, float]:
    """Tokens a second of all together: from the first one's first token to the last one's last, prompts of the others
    being read in between; and while all of them are written.
    """

    def stream(prompt: str) -> ask.Answer:
        answer = ask.raw(service, prompt, LIMIT)
        world.same(prompt, LIMIT, answer.text, f"{service.model}, {len(prompts)} at once")
        return answer

    answers = list(pool.map(stream, prompts))
    tokens = sum(answer.tokens for answer in answers)
    if tokens <= len(answers):
        raise BenchError("the model answered with one token; its speed cannot be told")
    ends = [(answer.times[0], answer.times[-1]) for answer in answers]
    whole = max(last for _, last in ends) - min(first for first, _ in ends)
    begin, end = max(first for first, _ in ends), min(last for _, last in ends)
    meanwhile = sum(
        answer.tokens * sum(begin < at <= end for at in answer.times) / len(answer.times) for answer in answers
    )
    return (tokens - len(answers)) / whole, meanwhile / (end - begin) if end > begin else 0.0


def _short(world: World, service: Orchestrator, pool: ThreadPoolExecutor | None) -> float:
    """Seconds that a short answer takes to its end, while a long one is written or not."""
    long = None if pool is None else pool.submit(ask.raw, service, STORY, LIMIT)
    if long is not None:
        while not service.status()["running"]:
            time.sleep(0.001)
    began = time.perf_counter()
    answer = ask.raw(service, PROMPT, SHORT)
    seconds = time.perf_counter() - began
    if long is not None:
        long.result()
    world.same(PROMPT, SHORT, answer.text, f"{service.model}, a short one")
    return seconds


def _floor(world: World) -> tuple[float, float]:
    command = [sys.executable, str(Path(bare.__file__).with_name("bare_batch.py")), str(world.model), str(LIMIT), STORY]
    done = subprocess.run(command, env=world.environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"the bare batch ended with {done.returncode}: {done.stderr[-500:]}")
    single, batch = map(float, done.stdout.split())
    return single, batch
