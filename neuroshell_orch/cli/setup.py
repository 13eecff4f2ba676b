"""``nsorch setup``: the units for this user, in and out.

Owns what is printed, and which program the units shall start; what is written where, and what systemctl is told, is
the knowledge of ``sd.units``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from neuroshell_orch.cli.root import new_app
from neuroshell_orch.errors import OrchError

app = new_app()

DONE = {
    "write": "wrote {path}",
    "unchanged": "{path} is as it should be",
    "remove": "removed {path}",
    "backup": "kept your changed {path} as {detail}",
    "leave": "left {path}: {detail}",
    "run": "ran {detail}",
}
WOULD = {
    "write": "would write {path}",
    "remove": "would remove {path}",
    "backup": "would keep your changed {path} as {detail}",
    "leave": "would leave {path}: {detail}",
    "run": "would run {detail}",
}


@app.command()
def setup(
    remove: Annotated[bool, typer.Option("--remove", help="Take all of it away again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Install the units for this user, so that they start this program; --remove takes them away again."""
    from neuroshell_orch.cli import output
    from neuroshell_orch.sd import units

    if not remove and packaged(Path(sys.prefix)):
        if as_json:
            output.print_json([])
        else:
            output.say("The system's package installed the units already, for every user.")
            output.note("Switch it on with: systemctl --user enable --now nsorch.socket")
        return
    changes = units.remove(dry_run) if remove else units.install(program(), dry_run)
    if as_json:
        rows = [{"action": c.action, "path": str(c.path) if c.path else None, "detail": c.detail} for c in changes]
        output.print_json(rows)
        return
    words = DONE | WOULD if dry_run else DONE
    for change in changes:
        output.say(words[change.action].format(path=change.path, detail=change.detail))
    if remove:
        if not changes:
            output.say("Nothing of ours is installed for this user.")
    elif not units.manager_runs():
        output.note("No systemd user manager runs here: `nsorch ask` starts the service for each command itself.")
    else:
        output.note("Switch it on with: systemctl --user enable --now nsorch.socket")


def packaged(prefix: Path, system_units: Path = Path("/usr/lib/systemd/user")) -> bool:
    """Whether this program came with a system package, whose units serve everybody: a copy would only hide them."""
    return prefix.is_relative_to("/usr/lib/nsorch") and (system_units / "nsorch.socket").exists()


def program() -> Path:
    """The installed ``nsorch`` that belongs to this interpreter, or the one on PATH."""
    import os
    import shutil

    beside = Path(sys.executable).with_name("nsorch")
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("nsorch")
    if found is None:
        message = f"There is no program nsorch beside {sys.executable} or on PATH, which the service could start."
        raise OrchError("file-missing", message, "Install it first: pipx install neuroshell-orch")
    return Path(found).absolute()
