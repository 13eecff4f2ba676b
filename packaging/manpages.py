"""Writes the manual pages: nsorch(1) from the commands themselves, nsorch.conf(5) from the table of keys.

``manpages.py FOLDER`` writes both. Owns their order and the sentences that no command and no key can say for itself;
everything that can change with the code is read from it, so neither page can drift. Must run in an environment that
holds the package. Must not know how a page is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from neuroshell_orch import __version__
from neuroshell_orch.cli.help import ENVIRONMENT, exit_codes
from neuroshell_orch.cli.root import app
from neuroshell_orch.config.schema import SECTIONS, KeyInfo, describe_keys

DESCRIPTION = """
nsorch runs language models and other ONNX models on this machine, for this user. A service of the user's own systemd
is started by the first connection to its socket, loads the model that is asked for, and ends when nothing needs it.
How ready a model is kept between two questions is its mode; see nsorch mode list.

After the installation nothing runs. Switch it on, once for each user, with

    systemctl --user enable --now nsorch.socket
"""

EXAMPLES = (
    ("Fetch the small default model and ask it something:", "nsorch model pull smollm2-135m", 'nsorch ask "Why?"'),
    ("Put the output of another program before the question:", 'git diff | nsorch ask "summarise this"'),
    ("Give a model's memory back when it was not asked for a while:", "nsorch mode set dummy-swap"),
)

PROGRAM_FILES = (
    ("$XDG_RUNTIME_DIR/nsorch/api.sock", "The service's socket."),
    ("~/.config/nsorch/", "This user's configuration, see nsorch.conf(5)."),
    ("~/.local/share/nsorch/models/", "The models that were fetched or converted."),
    ("~/.cache/nsorch/", "What can be made or fetched again."),
)

TREE = """
The configuration is a set of small files in the style of systemd. They are searched in the folders below; a file in a
later folder hides one of the same name in an earlier folder, and all other files are merged in the order of their
names. A file that is empty or a link to /dev/null hides what it stands for. An empty assignment takes back what was
assigned before it. A comment stands on a line of its own and begins with # or ;.

A key that is not known gives a warning. A value that cannot be is an error, and a running service then keeps the
configuration that it has. nsorch config check names the file, the line and the allowed values; nsorch config show says
where each value in force came from. After a change by hand: systemctl --user reload nsorch.service
"""

FOLDERS = (
    ("/usr/lib/nsorch/", "What the package and the distribution bring along. Do not edit it."),
    ("/etc/nsorch/", "The administrator's."),
    ("~/.config/nsorch/", "The user's own; XDG_CONFIG_HOME may move it. The commands of nsorch write here."),
)

SECTION_TEXTS = {
    "Orchestrator": "In nsorch.conf and nsorch.conf.d/*.conf: what holds for the service and for every model.",
    "Mode": "In modes.d/NAME.conf and modes.d/NAME.conf.d/*.conf: one mode. A new file is a new mode.",
    "Model": "In models.d/NAME.conf and models.d/NAME.conf.d/*.conf: one model, as nsorch model add writes it.",
}


def main() -> None:
    """The program."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nsorch.1").write_text(program_page(), encoding="utf-8")
    (folder / "nsorch.conf.5").write_text(configuration_page(), encoding="utf-8")


# ---- roff ----


def escape(text: str) -> str:
    """Text that roff prints as it stands."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    text = text.replace("`", "\\(ga")
    text = "".join(sign if sign.isascii() else f"\\[u{ord(sign):04X}]" for sign in text)  # any encoding of roff's
    return "\\&" + text if text[:1] in {".", "'"} else text


def paragraphs(text: str) -> Iterator[str]:
    """Running text; an indented part stays as it is."""
    for part in text.strip("\n").split("\n\n"):
        if part.startswith("    "):
            yield from block(part.splitlines())
        else:
            yield ".PP"
            yield escape(" ".join(part.split()))


def block(lines: list[str]) -> Iterator[str]:
    """Lines to type."""
    yield from (".PP", ".RS 4", ".EX", *(escape(line.strip()) for line in lines), ".EE", ".RE")


def item(term: str, text: str) -> Iterator[str]:
    """One line of a list."""
    yield from (".TP", f"\\fB{escape(term)}\\fR", escape(" ".join(text.split())) or "\\&")


def head(title: str, section: int) -> str:
    """The first line of a page."""
    return f'.TH {title} {section} "" "nsorch {__version__}"'


# ---- nsorch(1) ----


def program_page() -> str:
    """The page of the program."""
    lines = [head("NSORCH", 1), ".SH NAME", "nsorch \\- local AI that is there when it is asked"]
    root, context = command_tree()
    lines += [".SH SYNOPSIS", usage("nsorch", root, context), ".SH DESCRIPTION", *paragraphs(DESCRIPTION)]
    lines += [".SH OPTIONS", *options(root, context), ".SH COMMANDS"]
    for title, command, inner in walk("nsorch", root, context):
        lines += [f".SS {usage(title, command, inner)}", *paragraphs(command.help or ""), *options(command, inner)]
    lines.append(".SH EXAMPLES")
    for text, *typed in EXAMPLES:
        lines += [*paragraphs(text), *block(typed)]
    lines.append(".SH EXIT STATUS")
    for code, meaning, problems in exit_codes():
        lines += item(str(code), f"{meaning} ({', '.join(problems)})" if problems else meaning)
    lines.append(".SH ENVIRONMENT")
    for line in ENVIRONMENT.splitlines():
        name, _, text = line.partition(" ")
        lines += item(name, text)
    lines.append(".SH FILES")
    for path, text in PROGRAM_FILES:
        lines += item(path, text)
    lines += [".SH SEE ALSO", ".BR nsorch.conf (5),", ".BR systemctl (1),", ".BR journalctl (1)"]
    return "\n".join(lines) + "\n"


def command_tree() -> tuple[Any, Any]:
    """The root command and a context for it."""
    root = typer.main.get_command(app)
    return root, root.context_class(root, info_name="nsorch", **root.context_settings)


def walk(title: str, group: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401  (typer's classes)
    """Every command below ``group`` that can be run, with its full name."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = command.context_class(command, info_name=name, parent=context, **command.context_settings)
        full = f"{title} {name}"
        if hasattr(command, "list_commands"):
            yield from walk(full, command, inner)
        else:
            yield full, command, inner


def usage(title: str, command: Any, context: Any) -> str:  # noqa: ANN401
    """The command as it is typed."""
    pieces = [piece for piece in command.collect_usage_pieces(context) if piece]
    return f"\\fB{escape(title)}\\fR {escape(' '.join(pieces))}"


def options(command: Any, context: Any) -> Iterator[str]:  # noqa: ANN401
    """What the command takes, each with its line of help."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield from item(*record)


# ---- nsorch.conf(5) ----


def configuration_page() -> str:
    """The page of the configuration."""
    lines = [head("NSORCH.CONF", 5), ".SH NAME", "nsorch.conf \\- configuration of the local AI service nsorch"]
    files = ("nsorch.conf", "nsorch.conf.d/*.conf", "modes.d/NAME.conf", "models.d/NAME.conf")
    lines += [".SH SYNOPSIS", *(f"{escape(name)}\n.br" for name in files)]
    lines += [".SH DESCRIPTION", *paragraphs(TREE), ".SS Folders"]
    for path, text in FOLDERS:
        lines += item(path, text)
    for section in SECTIONS:
        lines += [f".SH [{section}] SECTION", *paragraphs(SECTION_TEXTS[section])]
        for info in describe_keys():
            if info.section == section:
                lines += key_entry(info)
    lines += [".SH SEE ALSO", ".BR nsorch (1)"]
    return "\n".join(lines) + "\n"


def key_entry(info: KeyInfo) -> Iterator[str]:
    """One key: what it does, what may stand there, what holds without it."""
    default = f"Default: {info.default}." if info.default else "No default."
    if info.default == "(required)":
        default = "Must be given."
    yield from item(f"{info.key}=", f"{info.help} Value: {info.allowed}. {default}")


if __name__ == "__main__":
    main()
