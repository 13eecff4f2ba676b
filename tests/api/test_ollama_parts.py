"""The parts of ``/api`` that can be looked at without a daemon: options, names, requests, and what they turn into."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from contextlib import suppress

import msgspec
import ollama
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.api import ollama_names, ollama_options
from neuroshell_orch.api.ollama_options import Options
from neuroshell_orch.api.ollama_request import ChatBody, GenerateBody, of_chat, of_generate
from neuroshell_orch.api.requests import parse_json
from neuroshell_orch.errors import OrchError


def generated(**fields):
    return of_generate(msgspec.convert({"model": "m", "prompt": "p", **fields}, GenerateBody))


def chatted(*messages, **fields):
    return of_chat(msgspec.convert({"model": "m", "messages": list(messages), **fields}, ChatBody))


# ---- options ----


@pytest.mark.parametrize(
    ("given_options", "wanted"),
    [
        (None, Options()),
        ({}, Options()),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 40}, Options(temperature=0.5, top_p=0.9, top_k=40)),
        ({"top_k": 40.0, "seed": 7.0, "num_predict": 5.0}, Options(top_k=40, seed=7, limit=5)),
        ({"num_predict": -1}, Options()),
        ({"num_predict": -2}, Options()),
        ({"num_predict": 0}, Options()),
        ({"num_predict": 1 << 40}, Options()),
        ({"num_ctx": 4096}, Options(context=4096)),
        ({"seed": -1, "top_k": -1}, Options(top_k=0)),
        ({"stop": "x"}, Options(stop=["x"])),
        ({"stop": ["x", "y"]}, Options(stop=["x", "y"])),
        ({"repeat_penalty": 1.1}, Options(repeat_penalty=1.1)),
        ({"repeat_penalty": 1.1, "repeat_last_n": -1}, Options(repeat_penalty=1.1)),
        ({"repeat_penalty": 1.1, "repeat_last_n": 0}, Options()),
        ({"repeat_penalty": 1.0, "repeat_last_n": 64, "penalize_newline": False}, Options()),
        ({"presence_penalty": 0.0, "repeat_last_n": 64}, Options(presence_penalty=0.0)),
        ({"min_p": 0.0, "tfs_z": 1, "typical_p": 1.0, "mirostat": 0, "mirostat_tau": 3.0}, Options()),
        ({"num_gpu": 99, "num_batch": 1, "use_mmap": False, "numa": True, "whatever": {"a": 1}}, Options()),
        ({"temperature": None, "stop": None}, Options()),
    ],
)
def test_options(given_options, wanted):
    assert ollama_options.read(given_options) == wanted


@pytest.mark.parametrize(
    ("given_options", "words", "problem"),
    [
        ({"min_p": 0.05}, "options.min_p", "unsupported"),
        ({"typical_p": 0.5, "tfs_z": 2}, "options.typical_p, options.tfs_z", "unsupported"),
        ({"repeat_penalty": 1.1, "repeat_last_n": 64}, "options.repeat_last_n", "unsupported"),
        ({"frequency_penalty": 1.1, "repeat_last_n": 64}, "options.repeat_last_n", "unsupported"),
        ({"repeat_penalty": 1.1, "penalize_newline": False}, "options.penalize_newline", "unsupported"),
        ({"repeat_penalty": 0}, "options.repeat_penalty", "bad-request"),
        ({"temperature": "hot"}, "options.temperature", "bad-request"),
        ({"temperature": True}, "options.temperature", "bad-request"),
        ({"temperature": math.inf}, "options.temperature", "bad-request"),
        ({"top_k": 1.5}, "options.top_k", "bad-request"),
        ({"num_ctx": 0}, "options.num_ctx", "bad-request"),
        ({"stop": [1]}, "options.stop", "bad-request"),
        ({"seed": 10**40}, "options.seed", "bad-request"),
    ],
)
def test_options_that_do_not_fit_are_named(given_options, words, problem):
    with pytest.raises(OrchError, match=words) as refused:
        ollama_options.read(given_options)
    assert refused.value.problem == problem


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from([*ollama.Options.model_fields, "min_p", "wonder"])


@given(st.dictionaries(NAMES, JSON, max_size=6))
def test_any_options_are_read_or_refused(given_options):
    with suppress(OrchError):  # and nothing else
        found = ollama_options.read(given_options)
        assert found.limit is None or found.limit > 0


# ---- names ----


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("a", {"a"}, "a"),
        ("a:latest", {"a"}, "a"),
        ("a:1b", {"a-1b", "a"}, "a-1b"),
        ("a:1b", {"a"}, None),
        (":latest", {"a"}, None),
        ("a:", {"a"}, None),
        ("A", {"a"}, None),
    ],
)
def test_what_a_name_means(name, known, found):
    assert ollama_names.among(name, known) == found


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True))
def test_a_listed_name_leads_back_to_its_model(name):
    assert ollama_names.among(ollama_names.tagged(name), {name}) == name
    assert ollama_names.plain(ollama_names.tagged(name)) == name


# ---- requests ----


def test_a_prompt():
    request = generated(system="s", options={"num_ctx": 9, "repeat_penalty": 1.2, "num_predict": 3, "temperature": 0})
    assert [(message.role, message.content) for message in request.messages] == [("system", "s"), ("user", "p")]
    assert (request.context, request.repeat_penalty, request.max_tokens, request.temperature) == (9, 1.2, 3, 0)
    assert request.prompt is None
    assert generated().temperature < 0, "the model's own way of choosing"


def test_a_raw_prompt_is_sent_as_it_is():
    request = generated(raw=True, prompt=" <|im_start|> x")
    assert (request.messages, request.prompt) == ([], " <|im_start|> x")


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        (None, ""),
        ("", ""),
        ("json", {"type": "object"}),
        ({"type": "integer"}, {"type": "integer"}),
        ({}, {}),
    ],
)
def test_formats(form, schema):
    for request in (generated(format=form), chatted({"role": "user", "content": "p"}, format=form)):
        assert (json.loads(request.schema) if request.schema else "") == schema


@pytest.mark.parametrize("form", ["xml", 3, ["a"], True, {"a": [[[[]]]] * 3} and "JSON"])
def test_formats_that_are_none(form):
    with pytest.raises(OrchError, match="format"):
        generated(format=form)


def test_a_schema_has_bounds_that_name_the_field():
    deep: dict = {}
    for _ in range(100):
        deep = {"properties": deep}
    with pytest.raises(OrchError, match=r"^format nests"):
        generated(format=deep)


def test_logprobs():
    assert generated(logprobs=True, top_logprobs=3).scores == 3
    assert generated(logprobs=True).scores == 0
    assert generated().scores == -1
    with pytest.raises(OrchError, match="top_logprobs"):
        generated(logprobs=True, top_logprobs=21)


def test_tools_as_the_package_makes_them():
    def add(a: int, b: int = 2) -> int:
        """Add two numbers.

        Args:
          a: the first
          b: the second
        """
        return a + b

    tool = ollama._utils.convert_function_to_tool(add).model_dump(exclude_none=True)
    request = chatted({"role": "user", "content": "p"}, tools=[tool])
    (function,) = json.loads(request.tools.functions)
    assert function["name"] == "add"
    assert function["parameters"]["properties"]["a"]["type"] == "integer"
    assert not request.tools.required


def call(name, made=None, **arguments):
    return {"function": {"name": name, "arguments": arguments}} | ({} if made is None else {"id": made})


def result(content, **fields):
    return {"role": "tool", "content": content, **fields}


@pytest.mark.parametrize(
    ("calls", "results", "answered"),
    [
        ([call("a"), call("b")], [result("1"), result("2")], ["a", "b"]),
        ([call("a"), call("b")], [result("1", tool_name="b"), result("2", tool_name="a")], ["b", "a"]),
        ([call("a", x=1), call("a", x=2)], [result("1", tool_name="a"), result("2", tool_name="a")], ["a", "a"]),
        ([call("a", "k1"), call("b", "k2")], [result("1", tool_call_id="k2")], ["b"]),
    ],
)
def test_results_find_their_calls(calls, results, answered):
    request = chatted({"role": "user", "content": "p"}, {"role": "assistant", "tool_calls": calls}, *results)
    made = json.loads(request.messages[1].tool_calls)
    assert [one["arguments"] for one in made] == [one["function"]["arguments"] for one in calls]
    told = request.messages[2:]
    assert [message.name for message in told] == answered
    assert len({message.tool_call_id for message in told}) == len(told)


@pytest.mark.parametrize("wrong", [result("1"), result("1", tool_name="b"), result("1", tool_call_id="k")])
def test_a_result_without_a_call(wrong):
    asked = {"role": "user", "content": "p"}
    with pytest.raises(OrchError, match=r"messages\[1\] is a tool's result"):
        chatted(asked, wrong)
    if wrong.get("tool_name") or wrong.get("tool_call_id"):
        with pytest.raises(OrchError, match=r"messages\[2\] is a tool's result"):
            chatted(asked, {"role": "assistant", "tool_calls": [call("a")]}, wrong)


@given(st.sampled_from([GenerateBody, ChatBody]), st.data())
def test_any_body_is_a_request_or_an_error(kind, data):
    fields = st.sampled_from(kind.__struct_encode_fields__)
    messages = st.lists(
        st.dictionaries(st.sampled_from(["role", "content", "images", "tool_calls", "tool_name", "tool_call_id"]), JSON)
    )
    body = data.draw(st.dictionaries(fields, JSON | messages | st.sampled_from(["user", "json"]), max_size=6))
    with suppress(OrchError):  # and nothing else
        wanted = parse_json(msgspec.json.encode(body), kind)
        request = of_chat(wanted) if isinstance(wanted, ChatBody) else of_generate(wanted)
        assert request.messages or request.prompt


def test_nobody_pays_for_what_he_does_not_call():
    code = "import sys, neuroshell_orch.daemon; print([m for m in sys.modules if 'ollama_' in m or 'catalogue' in m])"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
