"""``nsorch lease -- COMMAND``: memory is kept free until the command and all its children have ended.

Owns the child and its descendants: this process adopts those whose parent ended. The lease is the open connection, so
whatever ends this process ends it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Annotated, Final

import typer

from neuroshell_orch.cli.root import new_app

app = new_app()

PR_SET_CHILD_SUBREAPER: Final = 36


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def lease(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND…", show_default=False)],
    memory: Annotated[bool, typer.Option("--memory", help="Free RAM as well.")] = False,
    name: Annotated[str, typer.Option("--name", help="What the lease is called; else the command's name.")] = "",
) -> None:
    """Run a command while the accelerator's memory is kept free for it; what was warm comes back afterwards."""
    from neuroshell_orch.cli import output
    from neuroshell_orch.client import Client

    label = name or os.path.basename(command[0])  # noqa: PTH119 - a command is not a path
    holding = Client().events("/orch/leases", {"name": label, "memory": memory})
    first: dict[str, list[str]] = next(holding, {})
    held = first.get("held", [])
    if held:
        output.note(f"Not all is free yet: {', '.join(held)} still writes an answer.")
    try:
        code = run(command)
    finally:
        holding.close()
    if code:
        raise typer.Exit(code)


def run(command: list[str]) -> int:
    """The command's exit code, once it and every process that it left behind have ended. Raises OrchError."""
    import ctypes

    from neuroshell_orch.errors import OrchError

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        raise OrchError("not-found", f"{command[0]} cannot be run: {error.strerror}.", "Is it installed?") from error
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _frame: os.kill(child.pid, got))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells the command as well
    code = 0
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return code
        if pid == child.pid:
            code = child.returncode = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
