"""``nsorch doctor``: what is missing, and the exact line to type for it.

Owns the order and the wording of the findings and the exit code: 1 if something that an answer needs is missing. What
can only be better is a note. The checks are in ``checkup``; nothing is changed, and no service or model is woken.
"""

from __future__ import annotations

from typing import Annotated

import typer

from neuroshell_orch.cli.root import new_app
from neuroshell_orch.errors import EXIT_FAILURE

app = new_app()


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> int:
    """Say what is missing, and what to type to get it. Changes nothing."""
    from neuroshell_orch.cli import checkup, output

    found = checkup.everything()
    ok = all(item.state != "missing" for item in found)
    if as_json:
        output.print_json({"ok": ok, "checks": [item._asdict() for item in found]})
        return 0 if ok else EXIT_FAILURE
    colours = {"ok": output.GREEN, "missing": output.RED, "note": output.YELLOW}
    width = max(len(item.what) for item in found)
    for item in found:
        word = output.paint(item.state.ljust(7), colours[item.state])
        output.say(f"{word}  {item.what.ljust(width)}  {output.harmless(item.detail)}".rstrip())
        if item.command and item.state != "ok":
            output.say(f"         {' ' * width}  → {item.command}")
    output.say("Everything that an answer needs is there." if ok else "Something is missing: see the arrows.")
    return 0 if ok else EXIT_FAILURE
