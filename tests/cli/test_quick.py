"""What is read without the parser means what the parser reads."""

from __future__ import annotations

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroshell_orch.cli import ask, asking, quick

DEFAULTS = {
    "model": None,
    "system": None,
    "max_tokens": None,
    "temperature": None,
    "seed": None,
    "stats": False,
    "trace": False,
    "as_json": False,
}
WORDS = st.sampled_from(
    [
        *quick.VALUES,
        *quick.FLAGS,
        *(f"{name}={value}" for name in quick.VALUES for value in ("1", "0", "-1", "x", "")),
        *("hi", "-", "--", "", "0", "1", "7", "2.0", "0.5", "-1", "1e400", "nan", "inf", "0x1", "1_0", "²", " 1", "+1"),
        *("--mod", "-mX", "-m=X", "-x", "--no-stats", "--help", "-h", "ask", "--seed=-0", "99999999999999999999"),
    ]
)


def by_parser(arguments, monkeypatch):
    """What the command is called with, or None where the parser complains."""
    called = []
    names = ["words", *DEFAULTS]
    monkeypatch.setattr(asking, "run", lambda *values: called.append(dict(zip(names, values, strict=True))) or 0)
    try:
        typer.main.get_command(ask.app).main(list(arguments), prog_name="ask", standalone_mode=False)
    except Exception:  # noqa: BLE001 - whichever class this version of typer raises for wrong usage
        return None
    return called[0] if called else None


@given(arguments=st.lists(WORDS, max_size=5))
@settings(max_examples=400, deadline=None)
def test_it_agrees_with_the_parser_or_leaves_it_to_him(arguments):
    known = quick.read(arguments)
    if known is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        parsed = by_parser(arguments, patch)
    assert parsed is not None, "the parser refuses this"
    assert {**DEFAULTS, **known} == {**parsed, "words": parsed["words"] or []}


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        ([], {"words": []}),
        (["what", "is", "it"], {"words": ["what", "is", "it"]}),
        (["-m", "a", "hi", "--stats"], {"words": ["hi"], "model": "a", "stats": True}),
        (["--max-tokens=5", "--temperature", "0", "x"], {"words": ["x"], "max_tokens": 5, "temperature": 0.0}),
        (["--", "--stats"], {"words": ["--stats"]}),
    ],
)
def test_the_usual_ones_are_read(arguments, known):
    assert quick.read(arguments) == known


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--max-tokens", "0"], ["--seed"], ["--unknown"], ["-mX"]])
def test_the_others_are_not(arguments):
    assert quick.read(arguments) is None
