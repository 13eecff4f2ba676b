"""The command tree: which command exists and in which module it lies.

Owns the table of commands and their lazy loading: a command's module is imported when that command runs, so that
one command never pays for another. Imports only typer. Must not know what any command does.
"""

from __future__ import annotations

import difflib
import sys
from importlib import import_module
from typing import Annotated, Any, Final, TypeAlias

import typer
from typer.core import TyperGroup

from neuroshell_orch.cli.main import guarded

COMMANDS: Final[dict[str, str]] = {
    "ask": "Ask a model; the answer is printed while it is written.",
    "chat": "Talk with a model, turn by turn.",
    "infer": "Run a tensor model once.",
    "embed": "Turn texts into vectors.",
    "ps": "Show every model: how warm it is, its memory, what comes next.",
    "status": "Show the service in one look.",
    "why": "Say why a model is as warm as it is.",
    "free": "Give memory back now.",
    "lease": "Run a command with the accelerator's memory kept free.",
    "events": "Print what happens to models, as it happens.",
    "mode": "List, show and set modes.",
    "model": "Add, fetch, list, remove, warm and cool models.",
    "config": "Print and check the configuration, with the source of each value.",
    "token": "Make, list and revoke tokens of the loopback port.",
    "setup": "Install the service for this user, or remove it.",
    "doctor": "Say what is missing, and what to type to get it.",
    "serve": "Run the service in the foreground.",
    "help": "Explain a topic, such as exit-codes.",
}
"""Each command, the module of the same name in this folder, and its line in ``nsorch --help``."""

EPILOG: Final = """
Exit codes: 0 done, 1 failure, 2 wrong usage, 3 not found, 4 bad input,
5 service unavailable, 6 the model failed, 7 busy, 130 cancelled by Ctrl-C,
141 output closed. `nsorch help exit-codes` lists what leads to which.
"""

Loose: TypeAlias = Any
"""Typer's contexts and commands; their classes live in private or vendored modules, depending on its version."""

SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def new_app(text: str = "") -> typer.Typer:
    """A Typer application with the habits of all ours: plain help, no decorated tracebacks."""
    return typer.Typer(
        help=text,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=SETTINGS,
        no_args_is_help=bool(text),
    )


class Root(TyperGroup):
    """The group of all commands."""

    def list_commands(self, ctx: Loose) -> list[str]:  # noqa: ARG002  (typer's signature)
        """Every command, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Loose, cmd_name: str) -> Loose:  # noqa: ARG002
        """The command, imported now; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(import_module(f"neuroshell_orch.cli.{cmd_name}").app)
        command.name = cmd_name
        command.help = command.help or COMMANDS[cmd_name]
        return command

    def resolve_command(self, ctx: Loose, args: list[str]) -> Loose:
        """As typer does it, with a suggestion for a mistyped name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Loose, formatter: Loose) -> None:  # noqa: ARG002
        """The table, without importing a single command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, ctx: Loose, formatter: Loose) -> None:  # noqa: ARG002
        """The exit codes, unwrapped."""
        formatter.write(EPILOG)

    def invoke(self, ctx: Loose) -> None:
        """Run the command; what a person can act on becomes two lines and an exit code."""
        run = super().invoke
        code = guarded(lambda: run(ctx))
        if code:
            raise typer.Exit(code)


app = typer.Typer(
    cls=Root,
    name="nsorch",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
    no_args_is_help=True,
)


def _version(wanted: bool) -> None:
    if wanted:
        from neuroshell_orch import __version__

        sys.stdout.write(f"nsorch {__version__}\n")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Local AI that is there when it is asked, and gone when the machine needs the memory."""
