"""The entry point of ``nsorch``: what must happen before typer is imported, and how every error ends.

Owns the two shortcuts (``--version`` and ``serve`` need no parser), the early connection, and the one place where an
OrchError becomes two lines on stderr and an exit code. Must not know any command.
"""

# ruff: noqa: PLC0415  (imported where it is used: start-up is part of every answer)

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_PIPE: Final = 141
"""The reader of our output went away: what a shell reports for SIGPIPE."""


def run() -> None:
    """The ``nsorch`` program."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from neuroshell_orch import __version__

        sys.stdout.write(f"nsorch {__version__}\n")
        return
    if arguments == ["serve"]:
        from neuroshell_orch.cli.serve import serve

        sys.exit(guarded(serve))
    from neuroshell_orch.cli import early

    if arguments[:1] == ["ask"] and not {"-h", "--help"}.intersection(arguments):
        early.connect()
    try:
        from neuroshell_orch.cli.root import app

        app(prog_name="nsorch")
    finally:
        early.drop()


def guarded(function: Callable[[], object]) -> int:
    """Run ``function``; its exit code, with every error that a person can act on told in two lines."""
    from neuroshell_orch.errors import EXIT_CANCELLED, OrchError

    try:
        try:
            code = function()
            sys.stdout.flush()
        except OrchError as error:
            from neuroshell_orch.cli.output import complain

            sys.stdout.flush()
            complain(error.message, error.hint)
            return error.kind.exit_code
        except KeyboardInterrupt:
            sys.stdout.flush()
            return EXIT_CANCELLED
    except BrokenPipeError:
        null = os.open(os.devnull, os.O_WRONLY)  # else the interpreter complains when it flushes at its end
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        return EXIT_PIPE
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    run()
