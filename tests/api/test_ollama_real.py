"""Ollama's package with the real model: JSON schemas, tools, logprobs and bounds, over the activated socket."""

from __future__ import annotations

import json

import httpx
import jsonschema
import ollama
import pytest

from tests.support_models import smollm2_folder

pytestmark = pytest.mark.model

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ASK = [{"role": "user", "content": "Tell me about Bob, who is 40 years old."}]


@pytest.fixture
def client(manager):
    manager.register("smollm2-135m", smollm2_folder())
    manager.start(real=True)
    transport = httpx.HTTPTransport(uds=str(manager.path))
    with ollama.Client(host="http://localhost", transport=transport, timeout=120) as client:
        yield client


def test_the_real_model(manager, client):
    greedy = {"temperature": 0, "num_predict": 12}
    answer = client.chat(
        "smollm2:135m", [{"role": "user", "content": "What is the capital of France?"}], options=greedy
    )
    assert "Paris" in answer.message.content
    assert answer.prompt_eval_duration > 0
    assert answer.load_duration > 10**6
    pieces = client.chat(
        "smollm2-135m", [{"role": "user", "content": "What is the capital of France?"}], options=greedy, stream=True
    )
    assert "".join(chunk.message.content for chunk in pieces) == answer.message.content

    whole = client.chat("smollm2-135m", ASK, format=SCHEMA, options={"temperature": 0})
    jsonschema.validate(json.loads(whole.message.content), SCHEMA)
    text = "".join(
        chunk.response for chunk in client.generate("smollm2-135m", ASK[0]["content"], format=SCHEMA, stream=True)
    )
    jsonschema.validate(json.loads(text), SCHEMA)
    bounded = {**greedy, "num_predict": 60}
    said = client.generate("smollm2-135m", "Say something as JSON", format="json", options=bounded)
    assert said.response.lstrip().startswith("{")

    scored = client.chat("smollm2-135m", ASK, options=greedy, logprobs=True, top_logprobs=2)
    assert len(scored.logprobs) == scored.eval_count
    assert all(len(score.top_logprobs) == 2 and score.logprob <= 0 for score in scored.logprobs)

    cut = client.generate("smollm2-135m", "Count to a thousand: 1 2 3", raw=True, options={"num_ctx": 20})
    assert (cut.done_reason, cut.prompt_eval_count + cut.eval_count) == ("length", 20)
    with pytest.raises(ollama.ResponseError, match="bounds the context to 4"):
        client.generate("smollm2-135m", "one two three four five six seven", options={"num_ctx": 4})
    assert client.generate("smollm2-135m", "1 2 3", raw=True, options={"stop": ["5"], **greedy}).done_reason == "stop"

    (running,) = client.ps().models
    assert (running.details.parameter_size, running.details.quantization_level) == ("134.5M", "Q4")
    assert running.context_length == 8192
    assert running.size_vram in {0, manager.status("smollm2-135m")["needs_vram"]}
    (listed,) = client.list().models
    assert listed.size > 100_000_000
    shown = client.show("smollm2-135m")
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.modelinfo["general.parameter_count"] == 134_515_008
    assert "im_start" in shown.template


def test_tools_with_the_real_model(client):
    def get_weather(city: str) -> str:
        """Tell the weather.

        Args:
          city: the city
        """
        return city

    history = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}]},
        {"role": "tool", "content": "It rains.", "tool_name": "get_weather"},
    ]
    options = {"temperature": 0, "num_predict": 40}
    answer = client.chat("smollm2-135m", history[:1], tools=[get_weather], options=options)
    for made in answer.message.tool_calls or []:
        assert made.function.name == "get_weather"
        assert isinstance(made.function.arguments["city"], str)
    assert answer.message.content or answer.message.tool_calls
    chunks = list(client.chat("smollm2-135m", history[:1], tools=[get_weather], options=options, stream=True))
    made = [made for chunk in chunks for made in chunk.message.tool_calls or []]
    assert [one.function for one in made] == [one.function for one in answer.message.tool_calls or []]
    final = client.chat("smollm2-135m", history, tools=[get_weather], options=options).message
    assert final.content or final.tool_calls
