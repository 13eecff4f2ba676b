"""Traces in virtual time: what each policy makes of them, and whether the adaptive mode keeps what it promises.

Owns the table, the verdicts on the adaptive mode, and ``traces.json`` beside the other file, which has all figures. The
rows are the adaptive mode's with the fixed policy as their peer, and so are the tables: sums over the seeds that nobody
tuned by. The verdicts on the seeds that were tuned by stand beside them. Nothing here takes real time or a real model.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.bench.registry import Finding, Note, Row, benchmark
from tests.bench.simulate import LARGE, MIB, RAM, SMALL, Result, compare, together
from tests.bench.traces import JUDGED, TRACES, TUNED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from neuroshell_orch.core.budget import Cost
    from tests.bench.world import World

FILE = Path(__file__).resolve().parents[3] / "build" / "traces.json"
MODELS = {"198 MiB": SMALL, "4 GiB": LARGE}
FIXED, ADAPTIVE, ORACLE = "fixed 5 min", "adaptive", "oracle"
HALVED = {"bursty", "periodic", "zipf"}
"""Traces on which half of the fixed policy's cold starts, or half of its memory, is the aim."""
NEAR = 1.25
"""On the periodic trace no more than this many times the oracle's memory."""


class Verdict(NamedTuple):
    """A promise, and whether it is kept."""

    text: str
    kept: bool


def verdicts(trace: str, results: dict[str, Result]) -> Iterator[Verdict]:
    """What the adaptive mode promises on ``trace``."""
    fixed, adaptive = results[FIXED], results[ADAPTIVE]
    cold, held = adaptive.cold / fixed.cold, adaptive.held / fixed.held
    text = f"{cold:.2f} of the fixed policy's cold starts at {held:.2f} of its GiB·h"
    if trace in HALVED:
        yield Verdict(text, (cold <= 0.5 and held <= 1.0) or (held <= 0.5 and cold <= 1.0))
    else:
        yield Verdict(text, cold <= 1.0 or held <= 1.0)
    if trace == "periodic":
        near = adaptive.held / results[ORACLE].held
        yield Verdict(f"{near:.2f} times the oracle's GiB·h", near <= NEAR)


def run(trace: str, model: str, seed: int) -> dict[str, Result]:
    """One trace with one model; on the seeds that are judged every contestant, on others those that verdicts need."""
    make, length = TRACES[trace]
    names = () if seed in JUDGED else (FIXED, ADAPTIVE, ORACLE)
    return compare(make(length, seed), MODELS[model], length, names)


Found = dict[tuple[str, str, int], dict[str, Result]]


def over(found: Found, trace: str, model: str, seeds: Iterable[int]) -> dict[str, Result]:
    """The sums over ``seeds``."""
    each = [found[trace, model, seed] for seed in seeds]
    return {name: together(results[name] for results in each) for name in each[0]}


def said(found: Found, trace: str, model: str) -> Iterator[str]:
    """The verdicts on both kinds of seeds, with the number of single seeds on which a promise is broken."""
    for kind, seeds in (("judged", JUDGED), ("tuned", TUNED)):
        broken = sum(not all(v.kept for v in verdicts(trace, found[trace, model, seed])) for seed in seeds)
        apart = f"; broken on {broken} of the {len(seeds)} seeds alone" if broken else ""
        for verdict in verdicts(trace, over(found, trace, model, seeds)):
            yield f"  {kind}: {'kept' if verdict.kept else 'NOT KEPT'}: {verdict.text}{apart}"


def describe(name: str, cost: Cost) -> str:
    """The numbers that a model stands for."""
    held = [part[RAM] // MIB for part in (cost.hot, cost.hibernated, cost.parked)]
    return (
        f"{name}: hot {held[0]}, hibernated {held[1]}, parked {held[2]} MiB; to hot from hibernated "
        f"{cost.wake_hibernated:.2f}, from parked {cost.wake_parked:.2f}, from cold {cost.wake_cold:.2f} s."
    )


def table(results: dict[str, Result]) -> Iterator[str]:
    """One trace's figures: a line for each contestant."""
    columns = ("cold starts", "woken", "mean s", "p50 s", "p95 s", "p99 s", "GiB·h")
    yield f"  {'':24}" + "".join(f"{column:>12}" for column in columns)
    for name, result in results.items():
        times = (result.mean, *(result.quantile(part) for part in (0.5, 0.95, 0.99)))
        numbers = "".join(f"{seconds:12.3f}" for seconds in times)
        yield f"  {name:24}{result.cold:12}{result.woken:12}{numbers}{result.held:12.2f}"


@benchmark(90, "traces", "Adaptive mode on made-up traces, in virtual time", "fixed keep-alive of 5 minutes")
def measure(_world: World) -> Iterator[Finding]:
    """All traces with both models."""
    jobs = [(trace, model, seed) for model in MODELS for trace in TRACES for seed in (*JUDGED, *TUNED)]
    with ProcessPoolExecutor() as pool:
        found: Found = dict(zip(jobs, pool.map(run, *zip(*jobs, strict=True)), strict=True))
    for name, cost in MODELS.items():
        yield Note(describe(name, cost))
    yield Note(
        "Woken: found hibernated or parked. Seconds: until the answer begins, the prompt's own time not counted."
    )
    for model in MODELS:
        for trace in TRACES:
            results = over(found, trace, model, JUDGED)
            yield Note(
                f"\n  {trace}, {model}, seeds {', '.join(map(str, JUDGED))}: {results[FIXED].asks} asks\n"
                + "\n".join([*table(results), *said(found, trace, model)])
            )
            ours, theirs = results[ADAPTIVE], results[FIXED]
            yield Row(f"{trace}, {model}: cold starts", "", [ours.cold], [theirs.cold])
            yield Row(f"{trace}, {model}: p95 to the first token", "s", [ours.quantile(0.95)], [theirs.quantile(0.95)])
            yield Row(f"{trace}, {model}: memory", "GiB·h", [ours.held], [theirs.held])
    _write(found)


def _write(found: Found) -> None:
    records = [
        {
            "trace": trace,
            "model": model,
            "seed": seed,
            "policy": policy,
            "asks": result.asks,
            "cold_starts": result.cold,
            "woken": result.woken,
            **{f"p{100 * part:.0f}": round(result.quantile(part), 4) for part in (0.5, 0.95, 0.99)},
            "mean": round(result.mean, 4),
            "gib_hours": round(result.held, 3),
        }
        for (trace, model, seed), results in found.items()
        for policy, result in results.items()
    ]
    FILE.parent.mkdir(parents=True, exist_ok=True)
    partial = FILE.with_name(f"{FILE.name}.{os.getpid()}")
    partial.write_text(json.dumps(records, indent=1) + "\n")
    partial.replace(FILE)
