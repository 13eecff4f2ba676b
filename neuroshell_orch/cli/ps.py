"""``nsorch ps``: every model in one table.

Owns the columns. While the daemon sleeps the answer is that everything is cold, and it sleeps on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from neuroshell_orch.cli.root import new_app

if TYPE_CHECKING:
    from neuroshell_orch.api.schema import Freed, ModelStatus

HEAD = ("NAME", "MODE", "WARMTH", "SINCE", "PID", "MEMORY", "NEXT", "FREED", "REASON")

app = new_app()


@app.command()
def ps(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show every model: how warm it is, since when, its memory (PSS), what comes next, and why."""
    from neuroshell_orch.api.schema import Status
    from neuroshell_orch.cli import local, output, wire

    client = local.running()
    status = wire.get(client, "/orch/status", Status) if client else local.status()
    if as_json:
        output.print_json(wire.plain(status.models))
        return
    if not status.models:
        output.note("No model is registered. The default one: nsorch model pull smollm2-135m")
        return
    output.table(HEAD, [row(model) for model in status.models])
    for model in status.models:
        if model.freed is not None and model.freed.lost:
            output.note(f"{model.name}: not all memory came back: {output.harmless(model.freed.lost)}.")


def row(model: ModelStatus) -> list[str]:
    """One line of the table."""
    from neuroshell_orch.cli import output

    return [
        model.name,
        model.mode,
        model.phase,
        output.ago(model.since),
        str(model.pid or ""),
        output.size(model.memory.pss) if model.memory else "",
        upcoming(model),
        freed(model),
        model.reason,
    ]


def freed(model: ModelStatus) -> str:
    """What the last unload or hibernation gave back."""
    if model.freed is None:
        return ""
    back = came_back(model.freed)
    return f"{back}, not all" if model.freed.lost else back


def came_back(found: Freed) -> str:
    """How much of how much came back."""
    from neuroshell_orch.cli.output import size

    back = f"{size(found.before - found.after)} of {size(found.before)}"
    if found.vram_before:
        back += f" and {size(found.vram_before - found.vram_after)} of {size(found.vram_before)} VRAM"
    return back


def upcoming(model: ModelStatus) -> str:
    """What the mode will do, and when."""
    from neuroshell_orch.cli.output import span

    if model.next_at is None or model.next_warmth is None:
        return ""
    left = model.next_at - time.time()
    return f"{model.next_warmth} in {span(left)}" if left >= 1 else f"{model.next_warmth} now"
