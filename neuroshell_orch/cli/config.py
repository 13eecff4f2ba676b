"""``nsorch config``: the files, the values in force with their sources, and what is wrong.

Owns how these are shown. Reads the files itself and asks no service.
"""

from __future__ import annotations

from typing import Annotated

import typer

from neuroshell_orch.cli.root import COMMANDS, new_app

app = new_app(COMMANDS["config"])

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def cat(as_json: Json = False) -> None:
    """Print every configuration file in the order of reading; later ones win."""
    from neuroshell_orch.cli import output
    from neuroshell_orch.config.show import cat as files

    found = files()
    if as_json:
        output.print_json([{"file": str(path), "text": text} for path, text in found])
        return
    for number, (path, text) in enumerate(found):
        output.say(("\n" if number else "") + output.paint(f"# {output.harmless(str(path))}", output.DIM))
        output.say(output.harmless(text.rstrip("\n")))


@app.command()
def show(
    every: Annotated[bool, typer.Option("--all", "-a", help="Also the values that nobody set.")] = False,
    as_json: Json = False,
) -> None:
    """Print the values in force and where each one comes from."""
    from neuroshell_orch.cli import output
    from neuroshell_orch.config.show import DEFAULT
    from neuroshell_orch.config.show import show as entries

    found = [entry for entry in entries() if every or as_json or entry.source != DEFAULT]
    if as_json:
        output.print_json([entry._asdict() for entry in found])
        return
    if not found:
        output.note("Nothing is set: every value is the default. --all prints them.")
        return
    rows = [(f"{e.section}{f' {e.name}' if e.name else ''}", f"{e.key}={e.value}", e.source) for e in found]
    output.table(("SECTION", "VALUE", "SOURCE"), rows)


@app.command()
def check(as_json: Json = False) -> int:
    """Check the configuration; the exit code is 4 if it has an error."""
    from neuroshell_orch.cli import output
    from neuroshell_orch.config.load import check as findings
    from neuroshell_orch.errors import EXIT_BAD_INPUT

    found = findings()
    bad = any(item.severity == "error" for item in found)
    if as_json:
        rows = [{"severity": f.severity, "file": f.path, "line": f.line, "message": f.message} for f in found]
        output.print_json({"ok": not bad, "findings": rows})
    elif not found:
        output.say("The configuration is valid.")
    else:
        for item in found:
            word = output.paint(item.severity, output.RED if item.severity == "error" else output.YELLOW)
            output.say(f"{item.where}: {word}: {output.harmless(item.message)}")
    return EXIT_BAD_INPUT if bad else 0
