"""The manual pages say everything that the commands and the configuration can do, in roff that renders."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from neuroshell_orch.cli.root import app
from neuroshell_orch.config.schema import SECTIONS, describe_keys
from neuroshell_orch.errors import PROBLEMS

PROGRAM = Path(__file__).parents[2] / "packaging" / "manpages.py"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, PROGRAM, folder], check=True)
    return folder


def plain(path):
    """The page's text without the escapes of roff."""
    text = path.read_text()
    for escaped, sign in {
        "\\-": "-",
        "\\fB": "",
        "\\fR": "",
        "\\&": "",
        "\\(ga": "`",
        "\\(ti": "~",
        "\\(ha": "^",
    }.items():
        text = text.replace(escaped, sign)
    return re.sub(r"\\\[u([0-9A-F]{4,6})\]", lambda found: chr(int(found[1], 16)), text)


def commands(group, title, context):
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = command.context_class(command, info_name=name, parent=context)
        if hasattr(command, "list_commands"):
            yield from commands(command, f"{title} {name}", inner)
        else:
            yield f"{title} {name}", command


def test_every_command_and_every_option_has_its_place(pages):
    sections = {}
    for part in plain(pages / "nsorch.1").split("\n.SS ")[1:]:
        title, _, text = part.partition("\n")
        sections[title] = text
    root = typer.main.get_command(app)
    found = list(commands(root, "nsorch", root.context_class(root, info_name="nsorch")))
    assert len(found) > 20
    for title, command in found:
        (text,) = [text for head, text in sections.items() if f"{head} ".startswith(f"{title} ")]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert all(option in text for option in parameter.opts), (title, parameter.opts)


def test_every_exit_code_names_its_problems(pages):
    text = plain(pages / "nsorch.1")
    assert all(problem in text for problem in PROBLEMS)


def test_every_key_stands_in_its_section(pages):
    text = plain(pages / "nsorch.conf.5")
    for info in describe_keys():
        section = text.partition(f".SH [{info.section}] SECTION")[2].partition("\n.SH ")[0]
        assert f"\n{info.key}=\n" in section
        assert " ".join(info.help.split()) in section
    assert all(f"[{section}]" in text for section in SECTIONS)


@pytest.mark.parametrize("page", ["nsorch.1", "nsorch.conf.5"])
def test_it_renders_without_a_warning(pages, page):
    if shutil.which("groff") is None:
        pytest.skip("not installed: groff (apt-get install groff)")
    argv = ["groff", "-man", "-Tutf8", "-ww", str(pages / page)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.count("\n") > 60
