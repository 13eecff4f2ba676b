"""The entry point of ``nsorch``: what must happen before typer is imported, and how every error ends.

Owns the two shortcuts (``--version`` and ``serve`` need no parser), the early connection, and the one place where an
OrchError becomes two lines on stderr and an exit code. Must not know any command.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Final

from neuroshell_orch import marks

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_PIPE: Final = 141
"""The reader of our output went away: what a shell reports for SIGPIPE."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def run() -> None:
    """The ``nsorch`` program."""
    marks.executed()
    arguments = sys.argv[1:]
    _mend_streams()
    if arguments == ["--version"]:
        sys.exit(guarded(_version))
    if arguments == ["serve"]:
        from neuroshell_orch.cli.serve import serve

        sys.exit(guarded(serve))
    from neuroshell_orch.cli import early

    if arguments[:1] == ["ask"] and not {"-h", "--help"}.intersection(arguments):
        early.connect(arguments[1:])
    try:
        if arguments[:1] == ["ask"] and not _completes():
            from neuroshell_orch.cli import quick

            if (known := quick.read(arguments[1:])) is not None:
                from neuroshell_orch.cli import asking

                sys.exit(guarded(lambda: asking.run(**known)))
        from neuroshell_orch.cli.root import app

        app(prog_name="nsorch")
    finally:
        early.drop()


def _completes() -> bool:
    """Whether a shell asks how a command line could go on."""
    return any(name.startswith("_NSORCH") for name in os.environ)


def _version() -> None:
    from neuroshell_orch import __version__

    sys.stdout.write(f"nsorch {__version__}\n")


def guarded(function: Callable[[], object]) -> int:
    """Run ``function``; its exit code, with every error that a person can act on told in two lines."""
    from neuroshell_orch.errors import EXIT_CANCELLED, EXIT_FAILURE, OrchError

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
        _drop_output()
        return EXIT_PIPE
    except OSError as error:
        if error.filename is not None or error.errno not in _FULL:
            raise
        from neuroshell_orch.cli.output import complain

        _drop_output()
        complain(f"The output cannot be written: {error.strerror}.")
        return EXIT_FAILURE
    return code if isinstance(code, int) else 0


def _mend_streams() -> None:
    """Output that was closed goes nowhere, and a letter that the terminal does not know becomes a question mark."""
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if stream is None:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which a socket would take otherwise
            if number == 1:
                sys.stdout = os.fdopen(1, "w", closefd=False)
            elif number == 2:
                sys.stderr = os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _drop_output() -> None:
    """What is still held back goes nowhere, else the interpreter complains when it flushes at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


if __name__ == "__main__":
    run()
