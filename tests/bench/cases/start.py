"""What the programs cost that stand around an answer: the command line, and the start of the daemon.

Owns the command lines that are compared. Each row names its peer.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.bench import ask
from tests.bench.kernel import memory
from tests.bench.orchestrator import program
from tests.bench.registry import BenchError, Finding, Note, Row, benchmark, interleave

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.orchestrator import Orchestrator
    from tests.bench.world import World

MANY = 1000
SETTLED = 2.5
"""Seconds after which a configuration counts as settled."""


def _run(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    result = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    seconds = time.perf_counter() - began
    if result.returncode != 0:
        raise BenchError(f"{' '.join(command[:3])} … ended with {result.returncode}: {result.stderr.decode()[-300:]}")
    return seconds


@benchmark(90, "command", "The command line", 'python -c "import typer"')
def command(world: World) -> Iterator[Finding]:
    """``--version``, and what ``ask`` takes beyond the same request by curl; the model is hot."""
    hot = world.orchestrator("command", IdleSec="1h").arm()
    prompt = "hi"
    ask.raw(hot, prompt, 1)
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 1, "temperature": 0, "stream": True}
    curl = ["curl", "-sfN", "--unix-socket", str(hot.path), "-H", "Content-Type: application/json"]
    url = ["-d", json.dumps(body), "http://localhost/v1/chat/completions"]
    asks = [*program(), "ask", "--max-tokens", "1", "--temperature", "0", prompt]
    contestants: dict[str, Callable[[], float]] = {
        "typer": lambda: _run([sys.executable, "-c", "import typer"], world.environment),
        "version": lambda: _run([*program(), "--version"], world.environment),
        "ask": lambda: _run(asks, hot.environment),
    }
    if shutil.which("curl") is not None:
        contestants["curl"] = lambda: _run([*curl, *url], hot.environment)
    samples = interleave(contestants, max(world.runs, 7))
    yield Row("nsorch --version", "s", samples["version"], samples["typer"])
    if "curl" in samples:
        beyond = [mine - theirs for mine, theirs in zip(samples["ask"], samples["curl"], strict=True)]
        yield Row("nsorch ask, beyond the same by curl", "s", beyond, samples["typer"])
    else:
        yield Note("No row for nsorch ask: there is no curl to compare it with.")
    world.close(hot)


def _look(instance: Orchestrator) -> float:
    """From connecting, with nothing running, to the answer to a question that needs no model."""
    instance.arm()
    began = time.perf_counter()
    instance.call("GET", "/orch/modes")
    return time.perf_counter() - began


@benchmark(91, "many-models", f"{MANY} registered models", "one registered model")
def many(world: World) -> Iterator[Finding]:
    """The daemon's start and its private memory."""
    one, many = world.orchestrator("one-model"), world.orchestrator("many-models")
    for number in range(MANY - 1):
        text = f"[Model]\nPath={world.model}\nRuntime=genai\n"
        (many.config / "models.d" / f"other-{number:04d}.conf").write_text(text)
    for instance in (one, many):  # each is another user
        instance.environment["XDG_CACHE_HOME"] = str(world.folder / f"cache-{instance.model}")
    time.sleep(SETTLED)
    private: dict[Orchestrator, list[float]] = {one: [], many: []}

    def start(instance: Orchestrator) -> float:
        seconds = _look(instance)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:  # it stays while it is looked at
            held.connect(str(instance.path))
            private[instance].append(memory(instance.pid).private_dirty / 2**20)
        instance.stop()
        return seconds

    samples = interleave({"one": lambda: start(one), "many": lambda: start(many)}, max(world.runs, 7))
    yield Row("the daemon's start, connect to answer", "s", samples["many"], samples["one"])
    yield Row("the daemon's private memory", "MiB", private[many], private[one])
    world.close(one, many)
