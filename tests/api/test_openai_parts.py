"""The pure parts of OpenAI's convention: reading calls out of text, keep_alive, the bounds of schemas."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.api import keep_alive, openai_text
from neuroshell_orch.api import openai_request as request
from neuroshell_orch.api.openai_format import MAX_DEPTH, schema_of
from neuroshell_orch.api.openai_tools import CallReader
from neuroshell_orch.api.requests import parse_json
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Generate, Tools, decode_to_worker, encode

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
        (10**400, math.inf),
        (-(10**400), math.inf),
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


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["user", "tool", "text", "function", "auto", "required", "json_schema", "object", "f", "5m"]),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "text", "name", "function", "parameters", "json_schema", "schema"]
            )
            | st.sampled_from(["tool_calls", "tool_call_id", "id", "arguments", "1", "mode", "tools"]),
            below,
            max_size=3,
        )
    ),
    max_leaves=8,
)
FUNCTION = {"type": "function", "function": {"name": "f"}}
GOOD = {
    "messages": [{"role": "user", "content": "x"}],
    "prompt": "x",
    "tools": [FUNCTION],
    "tool_choice": FUNCTION,
    "response_format": {"type": "json_object"},
}


@given(st.sampled_from([request.ChatRequest, openai_text.TextRequest]), st.data())
def test_any_body_is_a_request_or_an_error_that_people_can_read(kind, data):
    names = data.draw(st.lists(st.sampled_from(sorted(kind.__struct_fields__)), max_size=4))
    body = {name: data.draw(VALUES) for name in names}
    body |= {key: value for key, value in GOOD.items() if key in kind.__struct_fields__ and data.draw(st.booleans())}
    try:
        wanted = parse_json(json.dumps(body).encode(), kind)
        request.ask_options(wanted)
        if kind is request.ChatRequest:
            made = [request.chat_request(wanted)]
        else:
            made = openai_text.text_job(wanted, "m").requests
    except OrchError as refused:
        status = refused.kind.status
        made = []
    else:
        status = 400
    assert status == 400
    for one in made:
        assert isinstance(one, Generate)
        assert decode_to_worker(encode(one)[4:]) == one
