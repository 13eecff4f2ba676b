"""Answers that are held to something, and logits: a tiny model with random weights says anything that is allowed."""

from __future__ import annotations

import json
import os
import re
import shutil

import jsonschema
import numpy as np
import onnx
import onnxruntime_genai as og
import pytest

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import genai_sampling, genai_writer
from neuroshell_orch.runtimes.genai import GenaiRuntime
from neuroshell_orch.workers.protocol import ChatMessage, Generate, Load, Tools
from tests.support_tiny import TEMPLATE, tiny_genai_folder

HELLO = [ChatMessage("user", "hello")]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FUNCTIONS = [
    {"name": "f", "description": "does f", "parameters": PERSON},
    {"name": "g", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
]
TOOLS = json.dumps(FUNCTIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_genai_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def runtime(folder):
    runtime = GenaiRuntime()
    runtime.load(Load("tiny", "genai", str(folder)))
    return runtime


def answer(runtime, messages=HELLO, cancelled=lambda: False, **options):
    text, scores = [], []

    def emit(piece, tokens, its_scores=None):
        text.append(piece)
        scores.extend(its_scores or [])

    done = runtime.generate(Generate(7, messages, **options), emit, cancelled)
    return "".join(text), done, scores


SCHEMAS = [
    PERSON,
    {"enum": ["red", "green", 3, None, [1, {"a": "b"}]]},
    {"const": {"x": "y"}},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [{"const": 1}, {"type": "null"}], "items": False, "minItems": 2},
    {"type": "integer", "minimum": 5, "exclusiveMaximum": 17},
    {"type": "number", "minimum": -1.5, "maximum": 1.5},
    {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
    {"type": "string", "pattern": "^[a-f]{3,6}$"},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"type": ["null", "boolean"]},
    {"anyOf": [{"type": "boolean"}, {"type": "string", "maxLength": 3}]},
    {"oneOf": [{"type": "boolean"}, {"type": "string", "maxLength": 3}]},
    {
        "$defs": {"node": {"type": "object", "properties": {"v": {"type": "boolean"}}, "required": ["v"]}},
        "type": "object",
        "properties": {"left": {"$ref": "#/$defs/node"}},
        "required": ["left"],
        "additionalProperties": {"type": "null"},
        "maxProperties": 2,
    },
    {
        "type": "object",
        "minProperties": 1,
        "patternProperties": {"^[a-c]$": {"type": "boolean"}},
        "additionalProperties": False,
    },
    {"const": {"minProperties": 3}},
    {"allOf": [{"type": "integer", "minimum": 2}, {"maximum": 9}]},
    {"type": "integer", "x-guidance": {"lenient": True}, "maximum": 99, "minimum": 0},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_an_answer_that_ends_validates(runtime, schema):
    whole = 0
    for seed in range(12):
        text, done, _ = answer(runtime, temperature=1.5, seed=seed, schema=json.dumps(schema), max_tokens=120)
        assert done.reason in {"stop", "length"}
        if done.reason == "stop":
            whole += 1
            validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
            validator.validate(json.loads(text))
    assert whole, "some of them end by themselves"


REFUSED = [
    {"not": {"type": "string"}},
    {"type": "array", "uniqueItems": True},
    {"if": {"type": "string"}, "then": {"minLength": 2}},
    {"type": "object", "propertyNames": {"pattern": "a"}},
    {"type": "string", "format": "colour"},
    {"type": "string", "pattern": "(?=a)b"},
    {"type": "nonsense"},
    {"$ref": "https://example.org/schema"},
    {"oneOf": [{"type": "number"}, {"type": "integer"}]},
    {"not": {}, "x-guidance": {"lenient": True}},
    {"type": "integer", "minimum": 5, "maximum": 2},
    {"items": {"type": "object", "minProperties": 2}},
]


@pytest.mark.parametrize("schema", REFUSED, ids=json.dumps)
def test_what_cannot_be_enforced_is_refused(runtime, schema):
    with pytest.raises(OrchError, match="cannot be enforced") as refused:
        answer(runtime, schema=json.dumps(schema), max_tokens=5)
    assert refused.value.problem == "unsupported"
    assert refused.value.hint


def test_no_white_space_for_ever(runtime):
    for seed in range(12):
        text, done, _ = answer(runtime, temperature=1.5, seed=seed, schema=json.dumps(PERSON), max_tokens=120)
        if done.reason == "stop":
            assert json.dumps(json.loads(text), ensure_ascii=False) == text


def test_cut_off_by_the_limit(runtime):
    text, done, _ = answer(runtime, schema=json.dumps(PERSON), max_tokens=3)
    assert (done.reason, done.completion_tokens) == ("length", 3)
    assert text.lstrip().startswith("{")


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 1.3, "seed": 5}], ids=str)
def test_an_answer_that_outgrows_its_room_keeps_its_grammar(runtime, monkeypatch, options):
    schema = json.dumps({"type": "array", "items": {"type": "integer"}, "minItems": 9, "maxItems": 9})
    expected, whole, _ = answer(runtime, schema=schema, max_tokens=200, **options)
    monkeypatch.setattr(genai_writer, "ROOM", 4)
    text, done, _ = answer(runtime, schema=schema, max_tokens=200, **options)
    assert (text, done.reason, done.completion_tokens) == (expected, whole.reason, whole.completion_tokens)


def test_cancelled_while_it_is_taken_in_again(runtime, monkeypatch):
    monkeypatch.setattr(genai_writer, "ROOM", 16)
    schema = json.dumps({"type": "array", "items": {"type": "integer"}, "minItems": 99})
    pieces, stop = [], False
    writer = runtime.begin(Generate(7, HELLO, schema=schema), lambda *piece: pieces.append(piece), lambda: stop)
    while sum(tokens for _, tokens in pieces) < 16:
        runtime.advance([writer])
    stop = True
    runtime.advance([writer])
    assert (writer.done.reason, writer.done.completion_tokens) == ("cancelled", 16)


def test_native_code_prints_nothing_while_a_grammar_is_at_work(capfd):
    with genai_sampling._silent():
        os.write(2, b"the token is: secret")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_the_graph_that_chooses_is_what_onnx_would_write():
    model = onnx.load_model_from_string(genai_sampling.graph(49152))
    onnx.checker.check_model(model, full_check=True)
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [1, 1, 49152]


def test_a_grammar_is_made_once_for_asks_that_follow_each_other(runtime):
    schema = json.dumps({"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4})
    runtime.hibernate()
    runtime.wake()
    choosers = runtime._bench.choosers
    assert choosers._idle is None
    first = answer(runtime, schema=schema, max_tokens=60)[:1]
    kept = choosers._idle[1]
    answer(runtime, schema=schema, max_tokens=3)
    assert answer(runtime, schema=schema, max_tokens=60)[:1] == first
    assert choosers._idle[1] is kept
    seeded = [answer(runtime, schema=schema, temperature=1.5, seed=3, max_tokens=60)[0] for _ in range(2)]
    assert seeded[0] == seeded[1]
    assert choosers._idle is None


def test_a_grammar_that_fails_says_nothing_to_the_journal(runtime, capfd):
    with pytest.raises(OrchError):
        answer(runtime, schema=json.dumps({"type": "string", "pattern": "(?=secret)b"}))
    answer(runtime, schema=json.dumps(PERSON), max_tokens=4)
    assert capfd.readouterr().err == ""


def calls_in(text):
    found = re.findall(r"<tool_call>\n(.*?)\n</tool_call>", text, re.DOTALL)
    assert "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in found) == text, "nothing but calls"
    return [json.loads(call) for call in found]


def test_required_calls_validate(runtime):
    names = set()
    for seed in range(12):
        tools = Tools(TOOLS, required=True, most=3)
        text, done, _ = answer(runtime, temperature=1.5, seed=seed, tools=tools, prompt="x")
        if done.reason == "stop":
            calls = calls_in(text)
            assert 1 <= len(calls) <= 3
            for call in calls:
                parameters = next(f["parameters"] for f in FUNCTIONS if f["name"] == call["name"])
                jsonschema.validate(call["arguments"], parameters)
                names.add(call["name"])
    assert names == {"f", "g"}


def test_where_the_model_chooses_text_is_free_and_a_beginning_call_is_held(runtime):
    for seed in range(8):
        text, done, _ = answer(runtime, temperature=1.5, seed=seed, tools=Tools(TOOLS), prompt="x")
        if done.reason == "stop" and text.startswith("<tool"):
            assert calls_in(text)
    schema = json.dumps({"type": "boolean"})
    for seed in range(8):
        text, done, _ = answer(runtime, temperature=1.5, seed=seed, tools=Tools(TOOLS), schema=schema, prompt="x")
        if done.reason == "stop":
            assert text.strip() in {"true", "false"} or calls_in(text)


def test_parameters_that_cannot_be_enforced(runtime):
    odd = json.dumps([{"name": "f", "parameters": {"type": "object", "not": {}}}])
    assert answer(runtime, tools=Tools(odd), prompt="x", max_tokens=3)[1].completion_tokens == 3
    for tools in (Tools(odd, required=True), Tools(odd, strict=True)):
        with pytest.raises(OrchError, match="not"):
            answer(runtime, tools=tools, prompt="x", max_tokens=3)


# ---- the prompt ----

NATIVE = (
    "{% if tools %}<|im_start|>system\nTOOLS {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}CALL{{ c.function.name }}{{ c.function.arguments | tojson }}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = NATIVE.replace(
    "CALL{{ c.function.name }}{{ c.function.arguments | tojson }}",
    '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}',
)
TALK = [
    ChatMessage("user", "question"),
    ChatMessage("assistant", "", json.dumps([{"name": "f", "arguments": {"name": "x"}, "id": "c1"}])),
    ChatMessage("tool", "result", tool_call_id="c1", name="f"),
]


class Seen:
    """The tokenizer, and the text that it was given."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def encode(self, text):
        self.text = text
        return self.tokenizer.encode(text)


def prompt(folder, tmp_path, template, messages=TALK, tools=TOOLS):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "tokenizer_config.json").read_text())
    if template is None:
        del config["chat_template"]
    else:
        config["chat_template"] = template
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    runtime = GenaiRuntime()
    runtime.load(Load("tiny", "genai", str(copy)))
    seen = Seen(runtime._tokenizer)
    runtime._template._tokenizer = seen
    request = Generate(1, messages, tools=Tools(tools) if tools else None)
    runtime._template.encode(request)
    return seen.text, runtime._template.style


def test_a_template_that_knows_tools_is_used(folder, tmp_path):
    text, style = prompt(folder, tmp_path, NATIVE)
    assert "TOOLS" in text
    assert '"does f"' in text
    assert re.search(r'CALLf\{"name": ?"x"\}', text)
    assert "<|im_start|>tool\nresult" in text
    assert "<tool_call>" not in text
    assert style.key == "arguments"


def test_a_template_that_writes_bare_calls(folder, tmp_path):
    text, style = prompt(folder, tmp_path, LLAMA)
    assert '{"name": "f", "parameters": {"name"' in text
    assert (style.before, style.key) == ("", "parameters")


def test_a_template_that_knows_nothing_of_tools_is_told_in_words(folder, tmp_path):
    text, style = prompt(folder, tmp_path, TEMPLATE)
    assert text.startswith("<|im_start|>system\n")
    assert '"description": "does f"' in text
    assert '<tool_call>\n{"name": "f", "arguments": {"name": "x"}}\n</tool_call>' in text
    assert "<|im_start|>user\n<tool_response>\nresult\n</tool_response>" in text
    assert style.before == "<tool_call>\n"


def test_told_in_words_behind_a_system_message_and_without_tools(folder, tmp_path):
    text, _ = prompt(folder, tmp_path, TEMPLATE, [ChatMessage("system", "be brief"), *TALK])
    assert text.startswith("<|im_start|>system\nbe brief\n\n")
    assert text.count("<|im_start|>system") == 1


def test_a_model_without_a_template_is_told_in_words(folder, tmp_path):
    text, _ = prompt(folder, tmp_path, None)
    assert '"does f"' in text
    assert "result" in text


def test_a_plain_conversation_is_rendered_as_ever(folder, tmp_path):
    text, _ = prompt(folder, tmp_path, TEMPLATE, HELLO, tools="")
    assert text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def test_a_raw_prompt_has_no_template(runtime, folder):
    tokenizer = og.Tokenizer(og.Model(str(folder)))
    tokens = [int(token) for token in tokenizer.encode("the quick")]
    text, done, _ = answer(runtime, [], prompt="the quick", max_tokens=9)
    assert done.prompt_tokens == len(tokens)
    assert answer(runtime, [], prompt=tokens, max_tokens=9)[0] == text
    with pytest.raises(OrchError, match="token"):
        answer(runtime, [], prompt=[1, 1 << 20], max_tokens=9)
    with pytest.raises(OrchError, match="nothing to answer"):
        answer(runtime, [], prompt="")


# ---- logits ----


def reference(folder, count):
    """Greedy, step by step: (token, log-softmax of the logits)."""
    model = og.Model(str(folder))
    tokenizer = og.Tokenizer(model)
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=200, do_sample=False)
    generator = og.Generator(model, parameters)
    turns = json.dumps([{"role": "user", "content": "hello"}])
    generator.append_tokens(tokenizer.encode(tokenizer.apply_chat_template(turns, add_generation_prompt=True)))
    for _ in range(count):
        logits = np.array(generator.get_logits(), np.float64).reshape(-1)
        generator.generate_next_token()
        yield int(generator.get_next_tokens()[0]), logits - np.log(np.exp(logits).sum())


def test_logprobs_are_those_of_the_logits(runtime, folder):
    plain, _, none = answer(runtime, max_tokens=12)
    text, _, scores = answer(runtime, max_tokens=12, scores=3)
    assert (text, none) == (plain, [])
    assert len(scores) == 12
    for score, (token, logprobs) in zip(scores, reference(folder, 12), strict=True):
        assert score.logprob == pytest.approx(logprobs[token], abs=1e-4)
        assert [p for _, p in score.likeliest] == pytest.approx(sorted(logprobs)[:-4:-1], abs=1e-4)
        assert score.likeliest[0][1] == pytest.approx(score.logprob), "greedy"
    assert all(score.likeliest == [] for score in answer(runtime, max_tokens=4, scores=0)[2])


def test_bias_and_penalties(runtime, folder):
    first = next(reference(folder, 1))[0]
    plain, _, _ = answer(runtime, max_tokens=30)
    other, _, scores = answer(runtime, max_tokens=30, bias={first: -100.0}, scores=1)
    assert other != plain
    assert scores[0].logprob < scores[0].likeliest[0][1], "what is reported is the model's own opinion"
    assert answer(runtime, max_tokens=30, bias={first: 0.0, 1 << 30: 5.0})[0] == plain
    only, done, _ = answer(runtime, max_tokens=20, bias={first: 100.0})
    assert len(set(only)) <= 2
    assert done.completion_tokens == 20
    _, _, once = answer(runtime, max_tokens=30, presence_penalty=1000.0, scores=0)
    texts = [score.text for score in once if "\ufffd" not in score.text]
    assert len(texts) == len(set(texts)), "no token comes twice"
    assert answer(runtime, max_tokens=30, frequency_penalty=1000.0)[0] != plain
