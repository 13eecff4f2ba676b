"""The real ``openai`` package against the activated socket; the models are fakes that repeat what they are told."""

from __future__ import annotations

import json
import math

import httpx2 as httpx
import openai
import pytest

from tests.support_daemon import wait_until

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "alpha beta gamma"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers",
            "parameters": {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
CALL = '<tool_call> {"name": "add", "arguments": {"a": 1}} </tool_call>'


@pytest.fixture
def client(manager):
    transport = httpx.HTTPTransport(uds=str(manager.path))
    with httpx.Client(transport=transport, timeout=30) as http:
        yield openai.OpenAI(base_url="http://localhost/v1", api_key="unused", http_client=http, max_retries=0)


@pytest.fixture
def asynchronous(manager):
    def make():
        http = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(manager.path)), timeout=30)
        return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="unused", http_client=http, max_retries=0)

    return make


def say(text):
    return [{"role": "user", "content": text}]


def chat(client, messages=MESSAGES, **fields):
    return client.chat.completions.create(model="fake", messages=messages, **fields)


def test_a_whole_answer(manager, client):
    manager.model()
    manager.activate()
    answer = chat(client, max_tokens=2, seed=1)
    assert answer.choices[0].message.content == "alpha beta "
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 2
    assert answer.object == "chat.completion"


def test_a_stream(manager, client):
    manager.model()
    manager.activate()
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "alpha beta gamma "
    assert chunks[-1].usage.completion_tokens == 3


@pytest.mark.anyio
async def test_the_asynchronous_client(manager, asynchronous):
    manager.model()
    manager.activate()
    async with asynchronous() as client:
        answer = await chat(client)
        assert answer.choices[0].message.content == "alpha beta gamma "
        texts = [c.choices[0].delta.content async for c in await chat(client, stream=True)]
        assert "".join(text or "" for text in texts) == "alpha beta gamma "
        raw = await client.completions.create(model="fake", prompt="one two")
        assert raw.choices[0].text == "one two "


def test_the_models(manager, client):
    manager.model("fake")
    manager.model("other")
    manager.activate()
    assert sorted(model.id for model in client.models.list()) == ["fake", "other"]
    assert client.models.retrieve("other").owned_by == "nsorch"


def test_errors_have_the_classes_that_programs_catch(manager, client):
    path = manager.model(load="fail")
    manager.start()
    with pytest.raises(openai.NotFoundError, match="nope"):
        client.chat.completions.create(model="nope", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match="tools"):
        chat(client, tools=[{"type": "function", "function": {}}])
    with pytest.raises(openai.APIStatusError) as caught:
        chat(client)
    assert caught.value.status_code >= 422
    path.write_text('{"die_after": 1, "die": "kill"}')
    with pytest.raises(openai.APIError, match="SIGKILL"):
        list(chat(client, stream=True))


def test_a_closed_stream_frees_the_model(manager, client):
    manager.model(tokens=-1, delay=0.005)
    manager.start()
    for _ in range(3):
        with chat(client, stream=True) as stream:
            next(iter(stream))


def test_several_choices(manager, client):
    manager.model()
    manager.start()
    answer = chat(client, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"alpha beta gamma "}
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 9)
    texts = {}
    for chunk in chat(client, n=3, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    assert texts == dict.fromkeys(range(3), "alpha beta gamma ")
    assert chunk.usage.completion_tokens == 9


def test_a_client_that_leaves_ends_all_choices(manager, client):
    manager.model(tokens=-1, delay=0.005)
    manager.start()
    with chat(client, n=4, stream=True) as stream:
        next(iter(stream))
        wait_until(lambda: (s := manager.status())["running"] + s["waiting"] == 4)
    wait_until(lambda: (s := manager.status())["running"] + s["waiting"] == 0)


def test_one_choice_that_fails_ends_the_others(manager, client):
    manager.model(die_after=2)
    manager.start()
    with pytest.raises(openai.APIStatusError):
        chat(client, n=3)
    wait_until(lambda: (s := manager.status())["running"] + s["waiting"] == 0)


def test_dynamic_loads_once_for_all_choices(manager, client):
    manager.settings(Mode="dynamic")
    manager.model()
    manager.start()
    chat(client, n=4)
    loads = [t for t in manager.get("/orch/models/fake/why")["transitions"] if t["after"] == "HOT"]
    assert len(loads) == 1


def test_logprobs(manager, client):
    manager.model()
    manager.start()
    assert chat(client).choices[0].logprobs is None
    scores = chat(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert [score.token for score in scores] == ["alpha ", "beta ", "gamma "]
    assert bytes(scores[0].bytes) == b"alpha "
    assert [(top.token, top.logprob) for top in scores[1].top_logprobs] == [("beta 0", -1.0), ("beta 1", -2.0)]
    streamed = [c.choices[0].logprobs for c in chat(client, logprobs=True, stream=True)]
    assert [lp.content[0].token for lp in streamed if lp] == ["alpha ", "beta ", "gamma "]
    with pytest.raises(openai.BadRequestError, match="top_logprobs"):
        chat(client, top_logprobs=2)


def test_tool_calls_whole_and_streamed(manager, client):
    manager.model()
    manager.start()
    choice = chat(client, say(f"{CALL} {CALL}"), tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert [call.function.name for call in choice.message.tool_calls] == ["add", "add"]
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"a": 1}
    assert len({call.id for call in choice.message.tool_calls}) == 2
    calls, content, reasons = [], "", []
    for chunk in chat(client, say(f"Let me see. {CALL}"), tools=TOOLS, stream=True):
        calls += chunk.choices[0].delta.tool_calls or []
        content += chunk.choices[0].delta.content or ""
        reasons.append(chunk.choices[0].finish_reason)
    assert (content, [call.index for call in calls], reasons[-1]) == ("Let me see. ", [0], "tool_calls")


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call> {"name": "unknown", "arguments": {}} </tool_call> ',
        '<tool_call> {"name": "add", "arguments": [1]} </tool_call> ',
        "<tool_call> broken </tool_call> ",
        '<tool_call> {"name": "add", ',
        '{"a": "table"} ',
        "a < b and <tool> ",
    ],
)
def test_what_only_looks_like_a_call_stays_text(manager, client, text):
    manager.model()
    manager.start()
    choice = chat(client, say(text), tools=TOOLS).choices[0]
    assert choice.message.tool_calls is None
    assert choice.message.content.split() == text.split()
    assert choice.finish_reason == "stop"


def test_a_conversation_with_results(manager, client):
    manager.model()
    manager.start()
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    turns = [
        *say("add"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "the result"},
    ]
    assert chat(client, turns, tools=TOOLS).choices[0].message.content == "the result "
    assert chat(client, turns).choices[0].message.content == "the result ", "without the tools"
    first = chat(client, say(CALL), tools=TOOLS).choices[0].message
    again = [*say("x"), first, {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "ok"}]
    assert chat(client, again, tools=TOOLS).choices[0].message.content == "ok "
    turns[2]["tool_call_id"] = "other"
    with pytest.raises(openai.BadRequestError, match="tool_call_id"):
        chat(client, turns, tools=TOOLS)


def test_tool_choice_none_is_plain_text(manager, client):
    manager.model()
    manager.start()
    assert "tool_call" in chat(client, say(CALL), tools=TOOLS, tool_choice="none").choices[0].message.content


def test_an_answer_that_is_not_the_promised_json_is_an_error(manager, client):
    manager.model()
    manager.start()
    with pytest.raises(openai.InternalServerError, match="not the JSON"):
        chat(client, response_format={"type": "json_object"})
    answer = chat(client, say('{"a": 1}'), response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content) == {"a": 1}
    assert chat(client, response_format={"type": "text"}).choices[0].message.content == "alpha beta gamma "
    assert chat(client, response_format={"type": "json_object"}, max_tokens=1).choices[0].finish_reason == "length"


def test_raw_completions(manager, client):
    manager.model()
    manager.start()

    def complete(prompt, **fields):
        return client.completions.create(model="fake", prompt=prompt, **fields)

    answer = complete("one two three", max_tokens=2)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("one two ", "length")
    assert answer.object == "text_completion"
    assert [c.text for c in complete(["a", "b c"], n=2).choices] == ["a ", "a ", "b c ", "b c "]
    assert complete([5, 6]).choices[0].text == "5 6 "
    assert complete("word " * 40).usage.completion_tokens == 16, "what the convention says where nothing is given"
    assert complete("a b", echo=True).choices[0].text == "a ba b "
    assert "".join(c.choices[0].text for c in complete("a b", echo=True, stream=True)) == "a ba b "
    scores = complete("a b", logprobs=1).choices[0].logprobs
    assert (scores.tokens, scores.text_offset) == (["a ", "b "], [0, 2])
    assert scores.top_logprobs[0] == {"a 0": -1.0}


REFUSED = [
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "json_schema.schema"),
    ({"response_format": {"type": "json_object"}, "stop": "}"}, "stop"),
    ({"tools": TOOLS, "tool_choice": "perhaps"}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "sub"}}}, "'sub'"),
    ({"tool_choice": "required"}, "tools is empty"),
    ({"tools": [TOOLS[0], TOOLS[0]]}, "twice"),
    ({"tools": [{"type": "function", "function": {"name": "no name"}}]}, "name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]}, "type object"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, r"tools\[0\] is not a function"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"verbosity": "low"}, "verbosity"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"extra_body": {"min_p": 0.1}}, "min_p"),
    ({"extra_body": {"keep_alive": "soon"}}, "keep_alive"),
    ({"n": 0}, "n is 0"),
    ({"n": 1000}, "n is 1000"),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"temperature": 3}, "temperature"),
    ({"top_logprobs": 30, "logprobs": True}, "top_logprobs"),
]


def test_what_cannot_be_done_is_an_error_that_names_it(manager, client):
    manager.model()
    manager.start()
    for fields, words in REFUSED:
        with pytest.raises(openai.BadRequestError, match=words):
            chat(client, **fields)
    for fields, words in [
        ({"prompt": ""}, "empty"),
        ({"prompt": []}, "empty"),
        ({"prompt": ["a", 1]}, r"prompt\[1\]"),
        ({"prompt": [1, -1]}, "prompt"),
        ({"prompt": "a\0"}, "NUL"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
        ({"prompt": ["a"] * 40, "n": 2}, "n times the prompts is 80"),
    ]:
        with pytest.raises(openai.BadRequestError, match=words):
            client.completions.create(model="fake", **fields)
    assert manager.phase() == "COLD", "none of it woke the model"


def test_labels_are_taken(manager, client):
    manager.model()
    manager.start()
    fields = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "flex", "prompt_cache_key": "k"}
    assert chat(client, **fields, safety_identifier="x").choices[0].message.content == "alpha beta gamma "
    neutral = {"presence_penalty": 0, "n": 1, "logprobs": False, "modalities": ["text"], "tools": []}
    assert chat(client, **neutral, parallel_tool_calls=True).choices[0].finish_reason == "stop"


@pytest.mark.parametrize(("value", "warm"), [("10m", 600), (300, 300), (-1, math.inf), (0, 0)])
def test_keep_alive(manager, client, value, warm):
    manager.model()
    manager.start()
    chat(client, extra_body={"keep_alive": value})
    if warm == 0:
        manager.wait_phase("COLD")
        return
    status = wait_until(lambda: (s := manager.status())["running"] == 0 and s)
    if warm == math.inf:
        assert status["next_at"] is None
    else:
        assert status["next_at"] - status["since"] == pytest.approx(warm, abs=30)
