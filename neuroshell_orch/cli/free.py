"""``nsorch free``: give memory back now, and say what came back.

Owns the sentences. While the daemon sleeps nothing is warm, and it sleeps on.
"""

from __future__ import annotations

from typing import Annotated

import typer

from neuroshell_orch.cli import complete
from neuroshell_orch.cli.root import new_app

app = new_app()


@app.command()
def free(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", autocompletion=complete.models, show_default=False)] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every model.")] = False,
    to: Annotated[str, typer.Option("--to", help="How far down: parked, hibernated or cold.")] = "cold",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Give the memory of a model, or of all, back now; answers that are being written are waited for."""
    from neuroshell_orch.api.schema import FreedModel
    from neuroshell_orch.cli import local, output, wire
    from neuroshell_orch.cli.ps import came_back
    from neuroshell_orch.errors import OrchError

    if model and everything:
        raise OrchError("bad-request", "A model and --all exclude each other.", "Name one of them.")
    if model and model not in local.model_names():
        raise OrchError("model-unknown", f"There is no model named {model[:80]}.", "See: nsorch model list")
    client = local.running()
    found = client.call("POST", "/orch/free", {"model": model or None, "to": to}, None) if client else []
    if as_json:
        output.print_json(found)
        return
    rows = wire.convert(found, list[FreedModel])
    for row in rows:
        if row.freed is None:
            output.say(f"{row.model} is {row.after}; nothing had to go.")
            continue
        back = f"{came_back(row.freed)} in {row.freed.seconds * 1000:.0f} ms"
        output.say(f"{row.model}: {row.before} → {row.after}, freed {back}.")
        if row.freed.lost:
            output.note(f"{row.model}: not all came back: {output.harmless(row.freed.lost)}.")
    if not rows:
        output.say("Nothing is warm.")
