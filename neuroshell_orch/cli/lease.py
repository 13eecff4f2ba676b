"""``nsorch lease -- COMMAND``: memory is kept free until the command and all its children have ended.

Owns the child and its descendants: this process adopts those whose parent ended. The lease is the open connection, so
whatever ends this process ends it. When the service ends during it, that is said, and it is taken again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final

import typer

from neuroshell_orch.cli.root import new_app

if TYPE_CHECKING:
    from collections.abc import Generator

app = new_app()

FIRST_WAIT: Final = 0.2
LONGEST_WAIT: Final = 10.0
"""Seconds between attempts to take a lease again whose service has ended."""
PR_SET_CHILD_SUBREAPER: Final = 36


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def lease(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND…", show_default=False)],
    memory: Annotated[bool, typer.Option("--memory", help="Free RAM as well.")] = False,
    name: Annotated[str, typer.Option("--name", help="What the lease is called; else the command's name.")] = "",
) -> None:
    """Run a command while the accelerator's memory is kept free for it; what was warm comes back afterwards."""
    from neuroshell_orch.cli import output

    label = name or os.path.basename(command[0])  # noqa: PTH119 - a command is not a path
    hold = Hold({"name": label, "memory": memory})
    held = hold.take()
    if held:
        output.note(f"Not all is free yet: {', '.join(held)} still writes an answer.")
    threading.Thread(target=hold.keep, daemon=True).start()
    try:
        code = run(command)
    finally:
        hold.over.set()
    if code:
        raise typer.Exit(code)


class Hold:
    """The open connection that is the lease. It ends with this process; when the service ends first, it is renewed."""

    def __init__(self, wanted: dict[str, object]) -> None:
        self.over = threading.Event()
        self._wanted = wanted
        self._events: Generator[object, None, None] | None = None

    def take(self) -> list[str]:
        """Wait until it is granted; the models that still hold something. Raises OrchError."""
        from neuroshell_orch.client import Client

        self._events = Client().events("/orch/leases", self._wanted)
        first: dict[str, list[str]] = next(self._events, {})  # type: ignore[arg-type]
        return first.get("held", [])

    def keep(self) -> None:
        """Hold it until ``over``: what the service loads after a restart would take what the command relies on."""
        from neuroshell_orch.cli import output

        while True:
            self._listen()
            if self.over.is_set():
                return
            output.note("The service has ended, and the lease with it; it is taken again.")
            if not self._again():
                return
            output.note("The lease holds again.")

    def _listen(self) -> None:
        from neuroshell_orch.errors import OrchError

        with suppress(OrchError):
            for _ in self._events or ():
                pass

    def _again(self) -> bool:
        """Until it is granted anew or no longer wanted."""
        from neuroshell_orch.errors import OrchError

        wait = FIRST_WAIT
        while not self.over.wait(wait):
            with suppress(OrchError):
                self.take()
                return True
            wait = min(2 * wait, LONGEST_WAIT)
        return False


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
