"""The timeline that ``nsorch ask --trace`` prints: what happened when, in milliseconds from the start of the command.

Owns the names and the order of the lines. Must not know how the instants came about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from neuroshell_orch.marks import marks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LINES: Final[dict[tuple[str, str], str]] = {
    ("command", "exec"): "this command begins",
    ("command", "connected"): "connected to the service's socket",
    ("command", "sent"): "the request is sent",
    ("service", "exec"): "the service's process begins",
    ("service", "ahead"): "a worker is started ahead",
    ("service", "foreseen"): "the ask is seen coming, and the worker told to load",
    ("service", "ready"): "the service takes requests",
    ("service", "asked"): "the service has read the request",
    ("worker", "exec"): "the worker's process begins",
    ("worker", "ready"): "the worker takes orders",
    ("worker", "runtime"): "its runtime is imported",
    ("worker", "files"): "the model's files are checked",
    ("worker", "tokenizer"): "the tokenizer is there",
    ("worker", "model"): "graph and weights are there",
    ("worker", "loaded"): "the model is loaded",
    ("service", "first"): "the service passes the first token on, the prompt is read",
    ("command", "first"): "the first token is here",
}


def lines(told: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """The lines, in the order of what happened. What was there before this command is said to be."""
    instants = {("command", name): at for name, at in marks().items()}
    instants |= {(who, name): at for who, marked in told.items() for name, at in marked.items()}
    begin = instants.get(("command", "exec"), 0.0)
    known = sorted((at, place) for place, at in instants.items() if place in LINES)
    before = {place for at, place in known if at < begin}
    for who, what in (("service", "exec"), ("worker", "loaded")):
        if (who, what) in before:
            yield f"{'before':>7}  {LINES[who, what]}"
    for at, place in known:
        if place not in before:
            yield f"{(at - begin) * 1000:7.0f}  {LINES[place]}"
