"""The real ``openai`` package, the real daemon and the real language model: JSON, tools, logprobs."""

from __future__ import annotations

import json

import httpx2 as httpx
import jsonschema
import openai
import pydantic
import pytest

from tests.support_models import smollm2_folder

pytestmark = pytest.mark.model

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"enum": ["c", "f"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "maximum": 999}, "b": {"type": "integer", "maximum": 999}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
PARAMETERS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in (WEATHER, ADD)}


@pytest.fixture
def client(manager):
    manager.register("fake", smollm2_folder())
    manager.start(real=True)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(manager.path)), timeout=100) as http:
        yield openai.OpenAI(base_url="http://localhost/v1", api_key="unused", http_client=http, max_retries=0)


def chat(client, text, **fields):
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    return client.chat.completions.create(model="fake", messages=messages, **{"temperature": 0, **fields})


def validated(calls):
    for call in calls:
        jsonschema.validate(json.loads(call.function.arguments), PARAMETERS[call.function.name])
    return [call.function.name for call in calls]


class Dog(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str = pydantic.Field(max_length=20)
    age: int = pydantic.Field(ge=0, le=30)
    friendly: bool


def test_structured_output(client):
    messages = [{"role": "user", "content": "Describe a dog."}]
    answer = client.chat.completions.parse(model="fake", messages=messages, response_format=Dog, temperature=0)
    assert isinstance(answer.choices[0].message.parsed, Dog)
    schema = {"type": "json_schema", "json_schema": {"name": "dog", "schema": Dog.model_json_schema()}}
    for seed in range(3):
        choice = chat(client, "Describe a dog.", response_format=schema, temperature=1.5, seed=seed).choices[0]
        assert choice.finish_reason == "stop"
        Dog.model_validate_json(choice.message.content)
    text = "".join(
        chunk.choices[0].delta.content or ""
        for chunk in chat(client, "Describe a dog.", response_format=schema, stream=True)
    )
    assert Dog.model_validate_json(text) == answer.choices[0].message.parsed
    assert chat(client, "Describe a dog.", response_format=schema, max_tokens=4).choices[0].finish_reason == "length"
    whole = chat(client, "A dog as JSON.", response_format={"type": "json_object"}, max_tokens=200).choices[0]
    if whole.finish_reason == "stop":
        assert isinstance(json.loads(whole.message.content), dict)
    schema["json_schema"]["schema"] = {"type": "array", "uniqueItems": True}
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        chat(client, "x", response_format=schema)


def test_tools(client):
    tools = [WEATHER, ADD]
    question = "What is the weather in Paris?"
    one = {"type": "function", "function": {"name": "get_weather"}}
    answer = chat(client, question, tools=tools, tool_choice=one)
    message = answer.choices[0].message
    assert validated(message.tool_calls) == ["get_weather"]
    assert "Paris" in message.tool_calls[0].function.arguments
    assert answer.choices[0].finish_reason == "tool_calls"

    talk = [
        {"role": "user", "content": question},
        message,
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Sunny, 21 degrees"},
    ]
    assert (
        "sunny" in chat(client, talk, tools=tools, tool_choice="none", max_tokens=40).choices[0].message.content.lower()
    )

    with client.chat.completions.stream(
        model="fake", messages=talk[:1], tools=tools, tool_choice="required", parallel_tool_calls=False, temperature=0
    ) as stream:
        stream.until_done()
        final = stream.get_final_completion().choices[0]
    assert len(validated(final.message.tool_calls)) == 1
    for seed in range(3):
        fields = {"tools": tools, "tool_choice": "required", "temperature": 1.2, "seed": seed, "max_tokens": 300}
        choice = chat(client, "What is 3 + 4?", **fields).choices[0]
        if choice.finish_reason == "tool_calls":
            assert validated(choice.message.tool_calls)
    free = chat(client, "Say hello.", tools=tools, max_tokens=20).choices[0].message
    assert free.content or validated(free.tool_calls)


def test_logprobs_bias_and_raw_prompts(client):
    plain = chat(client, "What is the capital of France?", max_tokens=6).choices[0]
    choice = chat(client, "What is the capital of France?", max_tokens=6, logprobs=True, top_logprobs=3).choices[0]
    assert choice.message.content == plain.message.content
    assert "".join(score.token for score in choice.logprobs.content) == plain.message.content
    for score in choice.logprobs.content:
        assert score.top_logprobs[0].token == score.token
        assert score.logprob == pytest.approx(score.top_logprobs[0].logprob)
        assert 0 >= score.top_logprobs[0].logprob >= score.top_logprobs[2].logprob
    raw = client.completions.create(model="fake", prompt="The capital of France is", max_tokens=3, temperature=0)
    assert "Paris" in raw.choices[0].text
    several = chat(client, "Tell me a story.", n=3, seed=7, temperature=1.0, max_tokens=12)
    assert len({choice.message.content for choice in several.choices}) == 3
    again = chat(client, "Tell me a story.", n=3, seed=7, temperature=1.0, max_tokens=12)
    assert [c.message.content for c in again.choices] == [c.message.content for c in several.choices]
