"""``python -m tests.bench``: run the benchmarks, print the table, write ``build/bench.json``.

Owns the arguments and the order. A benchmark is a function in a module of ``cases``; nothing here changes when one is
added.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.bench import charts, kernel, report
from tests.bench.registry import BenchError, Note, Row, load_all
from tests.bench.world import World
from tests.support_models import smollm2_folder

ROOT = Path(__file__).resolve().parents[2]
RUNS, QUICK_RUNS = 5, 3


def parse(arguments: list[str] | None) -> argparse.Namespace:
    known = load_all()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure nsorch beside a bare script.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_RUNS} runs instead of {RUNS}")
    parser.add_argument("--long", action="store_true", help="give loads over time what a verdict needs (25 minutes)")
    parser.add_argument("--runs", type=int, help="runs of each figure")
    parser.add_argument("--only", action="append", choices=sorted(known), help="one benchmark; may be repeated")
    parser.add_argument("--launcher", choices=["auto", "child", "systemd"], default="auto", help="how workers start")
    parser.add_argument("--model", type=Path, help="an onnxruntime-genai folder (default: SmolLM2-135M, 4 bits)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench.json")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    chosen = [bench for name, bench in load_all().items() if not options.only or name in options.only]
    model = (options.model or smollm2_folder()).resolve()
    rows: list[Row] = []
    try:
        with World(
            model, options.runs or (QUICK_RUNS if options.quick else RUNS), options.launcher, options.long
        ) as world:
            print(kernel.machine())
            print(f"Model {model.name}; {world.launcher_note}; page cache warm; load average {kernel.load()}.")
            print("Medians; ratio is value ÷ peer. Where time is measured, the contestants take turns.")
            for bench in chosen:
                found = list(bench.measure(world))
                own = [item for item in found if isinstance(item, Row)]
                print("\n" + report.table(bench, own), *[f"  {n.text}" for n in found if isinstance(n, Note)], sep="\n")
                sys.stdout.flush()
                rows += own
            print(f"\nAll answers to one prompt were identical. Load average at the end {kernel.load()}.")
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    report.write(options.out, rows)
    print(f"Written to {options.out}")
    try:
        drawn = charts.draw(options.out.parent, rows, world.series)
    except ImportError:
        print("No charts: matplotlib is not installed.")
    else:
        print(*(f"Drawn: {path}" for path in drawn), sep="\n" if drawn else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
