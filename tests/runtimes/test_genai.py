"""The genai runtime against a tiny model with random weights, and bare genai as the peer."""

from __future__ import annotations

import json
import os
import shutil

import onnxruntime_genai as og
import pytest

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import genai_writer
from neuroshell_orch.runtimes.genai import GenaiRuntime
from neuroshell_orch.workers.protocol import ChatMessage, Generate, Infer, Load
from tests.support_tiny import CONTEXT, tiny_genai_folder

HELLO = [ChatMessage("user", "hello")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_genai_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def runtime(folder):
    runtime = GenaiRuntime()
    runtime.load(Load("tiny", "genai", str(folder)))
    return runtime


def answer(runtime, messages=HELLO, cancel_after=None, **options):
    pieces, calls = [], 0

    def cancelled():
        nonlocal calls
        calls += 1
        return cancel_after is not None and calls > cancel_after

    request = Generate(7, messages, **options)
    done = runtime.generate(request, lambda text, tokens: pieces.append((text, tokens)), cancelled)
    assert done.job == 7
    return pieces, "".join(text for text, _ in pieces), done


def bare(folder, messages, limit):
    model = og.Model(str(folder))
    tokenizer = og.Tokenizer(model)
    turns = json.dumps([{"role": m.role, "content": m.content} for m in messages])
    prompt = tokenizer.encode(tokenizer.apply_chat_template(turns, add_generation_prompt=True))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=min(CONTEXT, len(prompt) + limit), do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt)
    stream, text, count = tokenizer.create_stream(), "", 0
    while not generator.is_done():
        generator.generate_next_token()
        token = int(generator.get_next_tokens()[0])
        if token not in tokenizer.eos_token_ids:
            text += stream.decode(token)
            count += 1
    return len(prompt), text, count


@pytest.mark.parametrize("content", ["hello", "wörld 🦊", "x " * 40])
def test_greedy_is_what_bare_genai_writes(runtime, folder, content):
    messages = [ChatMessage("system", "be brief"), ChatMessage("user", content)]
    pieces, text, done = answer(runtime, messages, max_tokens=60)
    assert (done.prompt_tokens, text, done.completion_tokens) == bare(folder, messages, 60)
    assert sum(tokens for _, tokens in pieces) <= done.completion_tokens
    assert done.prefill_seconds > 0
    assert done.decode_seconds > 0


def test_a_limit_ends_it_with_length(runtime):
    _, _, done = answer(runtime, max_tokens=5)
    assert (done.reason, done.completion_tokens) == ("length", 5)


def test_without_a_limit_the_context_ends_it_or_the_model_does(runtime):
    _, _, done = answer(runtime, temperature=1.5, seed=3)
    assert done.reason in ("stop", "length")
    assert done.prompt_tokens + done.completion_tokens <= CONTEXT


def test_an_answer_longer_than_the_first_room_goes_on(runtime, monkeypatch):
    _, expected, whole = answer(runtime, max_tokens=100)
    assert whole.completion_tokens > 16
    monkeypatch.setattr(genai_writer, "ROOM", 4)
    _, text, done = answer(runtime, max_tokens=100)
    assert (text, done.reason, done.completion_tokens) == (expected, whole.reason, whole.completion_tokens)
    assert answer(runtime, max_tokens=6)[2].completion_tokens == 6
    assert answer(runtime, max_tokens=100, cancel_after=8)[2].reason == "cancelled"


def test_a_long_prompt_is_taken_in_by_pieces(runtime, folder, monkeypatch):
    for bound in ("FIRST", "LEAST", "MOST"):
        monkeypatch.setattr(genai_writer.Pace, bound, 7)
    messages = [ChatMessage("user", "x " * 40)]
    assert answer(runtime, messages, max_tokens=30)[1] == bare(folder, messages, 30)[1]
    _, _, done = answer(runtime, messages, cancel_after=3)
    assert (done.reason, done.completion_tokens) == ("cancelled", 0)


def test_seeds(runtime):
    first, again, other = (answer(runtime, temperature=1.0, seed=s, max_tokens=40)[1] for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-9},
        {"temperature": 1.0, "seed": 1 << 62},
        {"temperature": 1.0, "top_k": -5, "top_p": 7.0},
        {"temperature": 1.0, "top_k": 1 << 20},
        {"temperature": 50.0, "top_p": 0.5, "top_k": 3},
    ],
    ids=str,
)
def test_odd_settings_still_give_an_answer(runtime, options):
    assert answer(runtime, max_tokens=10, **options)[2].completion_tokens > 0


def test_top_p_0_is_greedy(runtime):
    assert answer(runtime, temperature=1.0, top_p=0.0, max_tokens=20)[1] == answer(runtime, max_tokens=20)[1]


def test_top_k_1_and_a_tiny_top_p_are_greedy(runtime):
    greedy = answer(runtime, max_tokens=30)[1]
    assert answer(runtime, max_tokens=30, temperature=2.0, top_k=1)[1] == greedy
    assert answer(runtime, max_tokens=30, temperature=2.0, top_p=1e-6, seed=4)[1] == greedy


@pytest.mark.parametrize("seed", range(8))
def test_text_is_whole_characters_and_no_special_tokens(runtime, seed):
    pieces, text, _ = answer(runtime, temperature=3.0, seed=seed)
    assert "<|" not in text
    for piece, tokens in pieces:
        piece.encode("utf-8")
        assert piece
        assert tokens >= 1


def test_a_stop_string_ends_it_and_is_not_shown(runtime):
    _, whole, _ = answer(runtime, max_tokens=50)
    stop = whole[6:8]
    _, text, done = answer(runtime, max_tokens=50, stop=["never in it", stop])
    assert text == whole[: whole.index(stop)]
    assert done.reason == "stop"


def test_cancelled_between_tokens_and_before_the_first(runtime):
    _, _, done = answer(runtime, temperature=1.0, seed=1, cancel_after=6)
    assert (done.reason, done.completion_tokens) == ("cancelled", 5)
    _, text, done = answer(runtime, cancel_after=0)
    assert (done.reason, text) == ("cancelled", "")


def test_a_prompt_longer_than_the_context_says_both_numbers(runtime, folder):
    with pytest.raises(OrchError, match=rf"has \d+ tokens and the model's context holds {CONTEXT}") as refused:
        answer(runtime, [ChatMessage("user", "x " * 500)])
    assert refused.value.problem == "prompt-too-long"
    small = GenaiRuntime()
    assert small.load(Load("tiny", "genai", str(folder), context_length=9)).context_length == 9
    with pytest.raises(OrchError, match="holds 9"):
        answer(small)
    assert small.load(Load("tiny", "genai", str(folder), context_length=99999)).context_length == CONTEXT


def test_standby_runs_the_dummy():
    assert GenaiRuntime().standby() == f"onnxruntime-genai {og.__version__}"


def test_it_takes_no_tensors(runtime):
    with pytest.raises(OrchError) as refused:
        runtime.infer(Infer(1, []), lambda: False)
    assert refused.value.problem == "unsupported"


def test_a_model_without_a_chat_template_continues_the_text(folder, tmp_path):
    copy = tmp_path / "base"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    runtime = GenaiRuntime()
    runtime.load(Load("base", "genai", str(copy)))
    _, _, done = answer(runtime, [ChatMessage("user", "ab")], max_tokens=3)
    assert done.prompt_tokens == 2


def test_a_conversation_that_the_template_refuses(folder, tmp_path):
    copy = tmp_path / "strict"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config["chat_template"] = (
        "{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('no system: ' + messages[0]['content']) }}{% endif %}" + config["chat_template"]
    )
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    runtime = GenaiRuntime()
    runtime.load(Load("strict", "genai", str(copy)))
    with pytest.raises(OrchError, match="cannot express") as refused:
        answer(runtime, [ChatMessage("system", "a secret"), *HELLO])
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def edit(change):
    def apply(folder):
        path = folder / "genai_config.json"
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))

    return apply


def pipe(name):
    def apply(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return apply


def truncate(name, size):
    return lambda folder: os.truncate(folder / name, size)


@pytest.mark.parametrize(
    ("damage", "problem", "words"),
    [
        (shutil.rmtree, "file-missing", "genai_config.json"),
        (lambda f: (f / "genai_config.json").unlink(), "file-missing", "genai_config.json"),
        (lambda f: (f / "genai_config.json").write_text("{"), "model-invalid", "genai_config.json"),
        (edit(lambda c: c["model"].update(context_length="many")), "model-invalid", "'many'"),
        (edit(lambda c: c.clear()), "model-invalid", "context_length"),
        (edit(lambda c: c["model"].update(type="nonsense")), "model-invalid", "cannot be loaded"),
        (lambda f: (f / "model.onnx").unlink(), "file-missing", "model.onnx"),
        (lambda f: (f / "model.onnx").write_bytes(b"nonsense" * 9), "model-invalid", "not an ONNX model"),
        (truncate("model.onnx", 3000), "model-invalid", "not an ONNX model"),
        (truncate("model.onnx.data", 100), "model-invalid", "cut off"),
        (lambda f: (f / "model.onnx.data").unlink(), "file-missing", "model.onnx.data"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "model-invalid", "cannot be loaded"),
        (pipe("tokenizer.json"), "model-invalid", "regular file"),
        (pipe("model.onnx"), "model-invalid", "regular file"),
        (pipe("genai_config.json"), "file-missing", "genai_config.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_folders(folder, tmp_path, damage, problem, words):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(OrchError, match=words) as refused:
        GenaiRuntime().load(Load("copy", "genai", str(copy)))
    assert refused.value.problem == problem
    assert refused.value.hint


def test_devices(folder):
    with pytest.raises(OrchError, match="'tpu'"):
        GenaiRuntime().load(Load("tiny", "genai", str(folder), options={"device": "tpu"}))
    assert GenaiRuntime().load(Load("tiny", "genai", str(folder), options={"device": "cpu"})).device == "cpu"
