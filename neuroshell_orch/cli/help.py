"""``nsorch help [TOPIC]``: what no single command explains.

Owns the topics. The table of exit codes is made from the table of problems, so that it cannot be wrong.
"""

from __future__ import annotations

from typing import Annotated

import typer

from neuroshell_orch.cli.root import new_app

app = new_app()

TOPICS = ("exit-codes", "environment")

ENVIRONMENT = """\
NSORCH_SOCKET       the service's socket, instead of $XDG_RUNTIME_DIR/nsorch/api.sock; nothing is started in its place
NSORCH_CONFIG_DIRS  configuration folders separated by colons, instead of /usr/lib/nsorch, /etc/nsorch and your own
NO_COLOR            no colour, whatever it is set to
XDG_CONFIG_HOME     your own configuration lies in its folder nsorch (default ~/.config)
XDG_DATA_HOME       models that were fetched or converted lie in its folder nsorch (default ~/.local/share)
XDG_CACHE_HOME      downloads and prepared files, which can be made again (default ~/.cache)
XDG_RUNTIME_DIR     the socket and the lock of the running service"""


def _complete(incomplete: str) -> list[str]:
    return [topic for topic in TOPICS if topic.startswith(incomplete)]


@app.command("help")
def help_(
    topic: Annotated[
        str | None, typer.Argument(metavar="TOPIC", help=" or ".join(TOPICS), autocompletion=_complete)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain a topic: exit-codes or environment."""
    from neuroshell_orch.cli import output
    from neuroshell_orch.errors import OrchError

    if topic is None:
        output.say(f"Topics: {', '.join(TOPICS)}. Commands: nsorch --help; one of them: nsorch ask --help.")
    elif topic == "exit-codes":
        rows = exit_codes()
        if as_json:
            output.print_json([{"code": code, "meaning": meaning, "problems": found} for code, meaning, found in rows])
        else:
            output.table(("CODE", "MEANING", "PROBLEMS"), [(str(c), m, ", ".join(p)) for c, m, p in rows])
    elif topic == "environment":
        output.say(ENVIRONMENT)
    else:
        raise OrchError("not-found", f"There is no topic {topic!r}.", f"There are: {', '.join(TOPICS)}.")


def exit_codes() -> list[tuple[int, str, list[str]]]:
    """Each exit code, what it means, and the problems that lead to it."""
    from neuroshell_orch import errors
    from neuroshell_orch.cli.main import EXIT_PIPE

    meanings = {
        0: "done",
        errors.EXIT_FAILURE: "failure; doctor: something is missing",
        errors.EXIT_USAGE: "wrong usage of the command line",
        errors.EXIT_NOT_FOUND: "something named does not exist",
        errors.EXIT_BAD_INPUT: "the request or a file is wrong",
        errors.EXIT_UNAVAILABLE: "the service, the network or a permission",
        errors.EXIT_MODEL_FAILED: "the model or its worker failed",
        errors.EXIT_BUSY: "busy, try again",
        errors.EXIT_CANCELLED: "cancelled with Ctrl-C",
        EXIT_PIPE: "the reader of the output went away",
    }
    return [
        (code, text, [name for name, kind in errors.PROBLEMS.items() if kind.exit_code == code])
        for code, text in meanings.items()
    ]
