"""``nsorch mode``: list, show and set.

Owns how modes are shown. Setting one writes the user's own drop-in and works while the daemon sleeps; it is told
only if it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from neuroshell_orch.cli import complete
from neuroshell_orch.cli.root import COMMANDS, new_app

if TYPE_CHECKING:
    from neuroshell_orch.api.schema import ModeInfo

app = new_app(COMMANDS["mode"])

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="MODE", autocompletion=complete.modes, help="The mode's name.")]


def _modes() -> list[ModeInfo]:
    from neuroshell_orch.api.schema import ModeInfo
    from neuroshell_orch.cli import local, wire

    client = local.running()
    return wire.get(client, "/orch/modes", list[ModeInfo]) if client else local.modes()


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the modes; the one in force is marked."""
    from neuroshell_orch.cli import output, wire

    modes = _modes()
    if as_json:
        output.print_json(wire.plain(modes))
        return
    rows = [("*" if mode.active else " ", mode.name, mode.policy, mode.description) for mode in modes]
    output.table(("", "NAME", "POLICY", "DESCRIPTION"), rows)


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show a mode's parameters and the file it comes from."""
    from neuroshell_orch.cli import output, wire
    from neuroshell_orch.errors import OrchError

    modes = {mode.name: mode for mode in _modes()}
    found = modes.get(name)
    if found is None:
        raise OrchError("mode-unknown", f"There is no mode {name!r}.", f"There are: {', '.join(modes)}.")
    if as_json:
        output.print_json(wire.plain(found))
        return
    lines = [("mode", found.name), ("in force", "yes" if found.active else "no"), ("policy", found.policy)]
    lines += [("description", found.description)] if found.description else []
    output.pairs([*lines, *found.parameters.items(), ("source", found.source)])


@app.command("set")
def set_(
    name: Name,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME", autocompletion=complete.models, help="Only for this model."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Choose the mode of every model that names none itself, or of one model."""
    from neuroshell_orch.cli import local, output
    from neuroshell_orch.config import write

    path = write.set_mode(name, model)
    client = local.running()
    warnings = client.call("POST", "/orch/reload").get("warnings", []) if client else []
    if as_json:
        output.print_json({"mode": name, "model": model, "file": str(path), "running": client is not None})
        return
    whom = f"{model} is in mode {name}" if model else f"The mode is {name}"
    output.say(f"{whom}{'' if client else ', from the next ask on'}.")
    for warning in warnings:
        output.note(f"warning: {warning}")
