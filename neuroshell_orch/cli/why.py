"""``nsorch why MODEL``: the reason for a model's warmth, and how it came to it.

Owns how the story is told. While the daemon sleeps there is none to tell, and it sleeps on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from neuroshell_orch.cli import complete
from neuroshell_orch.cli.root import new_app

if TYPE_CHECKING:
    from neuroshell_orch.api.schema import Why

app = new_app()


@app.command()
def why(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="Without one: every model.", autocompletion=complete.models)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say why a model is as warm as it is, how it came to it, and what comes next."""
    from neuroshell_orch.api.schema import Why
    from neuroshell_orch.cli import local, output, wire
    from neuroshell_orch.client import quoted

    client = local.running()
    if not model:
        every = (
            wire.get(client, "/orch/why", list[Why]) if client else [local.why(name) for name in local.model_names()]
        )
        if as_json:
            output.print_json(wire.plain(every))
        else:
            for one in every:
                _tell(one)
        return
    found = wire.get(client, f"/orch/models/{quoted(model)}/why", Why) if client else local.why(model)
    if as_json:
        output.print_json(wire.plain(found))
        return
    _tell(found)


def _tell(found: Why) -> None:
    from neuroshell_orch.cli import output

    output.say(f"{found.model} is {found.warmth}: {output.harmless(found.reason)}")
    if found.outlook:
        output.say(output.harmless(found.outlook))
    for step in found.transitions:
        clock = time.strftime("%H:%M:%S", time.localtime(step.at))
        output.say(f"  {clock}  {step.before} → {step.after}  {output.harmless(step.reason)}")
