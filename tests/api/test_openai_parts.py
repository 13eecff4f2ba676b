"""The pure parts of OpenAI's convention: reading calls out of text, keep_alive, the bounds of schemas."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.api import keep_alive
from neuroshell_orch.api.openai_format import MAX_DEPTH, schema_of
from neuroshell_orch.api.openai_tools import CallReader
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Tools

TOOLS = Tools(json.dumps([{"name": "f", "parameters": {}}, {"name": "g", "parameters": {}}]))
F, G = '{"name": "f", "arguments": {"x": 1}}', '{"name": "g", "parameters": {}}'


def read(text, cuts=()):
    reader, found, at = CallReader(TOOLS), [], 0
    for cut in [*sorted(cuts), len(text)]:
        found += reader.feed(text[at:cut])
        at = cut
    found += reader.flush()
    shown = "".join(item for item in found if isinstance(item, str))
    return shown, [item["function"]["name"] for item in found if isinstance(item, dict)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello", ("hello", [])),
        ("", ("", [])),
        (f"<tool_call>\n{F}\n</tool_call>", ("", ["f"])),
        (f"\n<tool_call>{F}</tool_call>\n<tool_call>{G}</tool_call>\n", ("", ["f", "g"])),
        (f"<tool_call>[{F}, {G}]</tool_call>", ("", ["f", "g"])),
        (f"<tool_call>{F}", ("", ["f"])),
        (F, ("", ["f"])),
        (f" {F}\n{G}", ("", ["f", "g"])),
        (f"[{F}, {G}]", ("", ["f", "g"])),
        (f"I say {F}", (f"I say {F}", [])),
        (f"I say <tool_call>{F}</tool_call>", ("I say ", ["f"])),
        ('{"x": 1}', ('{"x": 1}', [])),
        ("a <tool_call> b", ("a <tool_call> b", [])),
        ("a <tool", ("a <tool", [])),
        ("a\n\nb", ("a\n\nb", [])),
        (f"<tool_call>{F}{{</tool_call>", (f"<tool_call>{F}{{</tool_call>", [])),
        ("[" * 100_000, ("[" * 100_000, [])),
    ],
    ids=lambda value: str(value)[:30],
)
def test_calls_in_text(text, expected):
    assert read(text) == expected


@given(
    st.lists(st.sampled_from(["<tool_call>", "</tool_call>", F, G, "\n", " ", "<", "text", "{", "[1]"]), max_size=8),
    st.data(),
)
def test_how_the_text_is_cut_does_not_matter(parts, data):
    text = "".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert read(text, cuts) == read(text)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        (1.5, 1.5),
        (-1, math.inf),
        ("10m", 600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("300ms", 0.3),
        ("-1", math.inf),
        ("-1m", math.inf),
        ("24h", 86400),
        ("0", 0),
        ("120", 120),
        (" 5s ", 5),
    ],
)
def test_keep_alive(value, seconds):
    assert keep_alive.seconds(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "m", "soon", "1x", "5 minutes", "1m-", "--1", "1" * 100, "٣s"])
def test_keep_alive_that_is_no_time(value):
    with pytest.raises(OrchError, match="keep_alive"):
        keep_alive.seconds(value)


def test_a_schema_that_nests_too_deeply():
    schema = {}
    for _ in range(MAX_DEPTH):
        schema = {"items": schema}
    with pytest.raises(OrchError, match="nests deeper"):
        schema_of({"type": "json_schema", "json_schema": {"schema": schema}})
    with pytest.raises(OrchError, match="longer than"):
        schema_of({"type": "json_schema", "json_schema": {"schema": {"enum": ["x" * 300_000]}}})
