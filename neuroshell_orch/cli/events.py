"""``nsorch events``: what happens to models, as it happens.

Owns the line of an event. Listening does not keep the daemon awake; when it leaves, that is the last line.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from neuroshell_orch.cli.root import new_app

app = new_app()


@app.command()
def events(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False) -> None:
    """Print each transition with its reason until Ctrl-C, or until the service goes to sleep."""
    import json

    from neuroshell_orch.api.schema import Happened
    from neuroshell_orch.cli import local, output, wire

    client = local.running()
    if client is None:
        output.note("The service sleeps: nothing happens.")
        return
    for event in client.events("/orch/events", None, "GET"):
        if as_json:
            output.say(json.dumps(event))
        else:
            found = wire.convert(event, Happened)
            clock = time.strftime("%H:%M:%S", time.localtime(found.at))
            what = f"{found.model}: {found.before} → {found.after}" if found.kind == "transition" else found.kind
            output.say(f"{clock}  {what}  {output.harmless(found.reason)}")
