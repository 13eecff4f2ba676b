"""Opening a genai folder beside the interpreter's lock, and without the conduit as genai itself does it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import onnxruntime_genai as og
import pytest

from neuroshell_orch.runtimes import base, genai_early, genai_native, genai_open
from neuroshell_orch.runtimes.genai import GenaiRuntime
from neuroshell_orch.workers.protocol import ChatMessage, Generate, Load
from tests.support_tiny import tiny_genai_folder

OVERLAY = {"model": {"decoder": {"session_options": {"intra_op_num_threads": 2}}}}
TURNS = json.dumps([{"role": "user", "content": "hello"}])


class Plain:
    """genai's module as a version without the conduit would be."""

    __file__ = og.__file__
    __version__ = og.__version__
    Config, Tokenizer, Generator = og.Config, og.Tokenizer, og.Generator

    @staticmethod
    def Model(config):  # noqa: N802 - genai's name
        return og.Model(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_genai_folder(tmp_path_factory.mktemp("open") / "model")


def tokens(model, tokenizer):
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=60, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(tokenizer.encode(tokenizer.apply_chat_template(TURNS, add_generation_prompt=True)))
    while not generator.is_done():
        generator.generate_next_token()
    return generator.get_sequence(0).tolist()


def test_both_ways_open_the_same(folder):
    beside, plain = (genai_open.open_model(which, folder, "cpu", OVERLAY) for which in (og, Plain))
    assert type(beside[0]) is genai_open.Opened
    assert type(plain[0]) is og.Model
    assert tokens(*beside) == tokens(*plain)
    assert list(beside[1].eos_token_ids) == list(plain[1].eos_token_ids)
    assert (beside[0].type, beside[0].device_type) == (plain[0].type, plain[0].device_type)


@pytest.mark.parametrize(("broken", "says"), [("model.onnx", "model"), ("tokenizer.json", "tokenizer")])
def test_a_broken_file_is_told_in_genais_words(folder, tmp_path, broken, says):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / broken).write_bytes(b"{")
    with pytest.raises(RuntimeError, match=f"(?i){says}|pars|json|protobuf"):
        genai_open.open_model(og, copy, "cpu", OVERLAY)
    assert not [thread for thread in threading.enumerate() if thread.name == "load"]


def test_an_error_of_making_is_raised_by_who_waits():
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        genai_open._Made("x", fail).result()


def test_what_is_opened_is_freed_once(folder):
    freed = []
    kind = SimpleNamespace
    opened = genai_open.Opened(kind, 5, freed.append)
    del opened
    assert freed == [5]


PLAIN_ANSWER = """
import sys
from neuroshell_orch.runtimes.genai import GenaiRuntime
from neuroshell_orch.workers.protocol import ChatMessage, Generate, Load
runtime = GenaiRuntime()
runtime.standby()
runtime.load(Load("m", "genai", sys.argv[1]))
said = []
wanted = Generate(1, [ChatMessage("user", "hi")], max_tokens=9)
runtime.generate(wanted, lambda text, tokens, scores=None: said.append(text), lambda: False)
assert said
print("numpy" in sys.modules)
"""


def test_a_plain_answer_needs_no_numpy(folder):
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", PLAIN_ANSWER, str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.stdout, result.returncode) == ("False\n", 0), result.stderr


def test_generators_take_and_give_lists(folder):
    module = genai_native.without_numpy(og)
    model, tokenizer = genai_open.open_model(og, folder, "cpu", OVERLAY)
    prompt = tokenizer.encode("hello wörld 🦊")
    assert type(prompt) is genai_native.Tokens
    assert prompt == og.Tokenizer(str(folder)).encode("hello wörld 🦊").tolist()
    parameters = module.GeneratorParams(model)
    parameters.set_search_options(max_length=40, do_sample=False)
    ours, theirs = module.Generator(model, parameters), og.Generator(model, parameters)
    ours.append_tokens(prompt)
    theirs.append_tokens(prompt)
    for _ in range(5):
        ours.generate_next_token()
        theirs.generate_next_token()
        assert ours.get_next_tokens() == theirs.get_next_tokens().tolist()
    assert ours.get_sequence(0).tolist() == theirs.get_sequence(0).tolist()
    ours.rewind_to(3)
    assert ours.token_count() == 3
    with pytest.raises(RuntimeError, match=r"(?i)length|exceed"):
        ours.append_tokens([1] * 100)


def test_a_version_that_was_not_looked_at_is_used_as_it_is(monkeypatch):
    assert genai_native.without_numpy(Plain) is Plain
    monkeypatch.setattr(genai_native, "LOOKED_AT", ("0.1.",))
    assert genai_native.without_numpy(og) is og


@pytest.mark.parametrize("change", ["nothing", "edited", "added", "another folder"])
def test_a_parked_tokenizer_is_used_only_for_the_files_it_was_made_from(folder, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    runtime = GenaiRuntime()
    runtime.make_ready(str(copy))
    held = runtime._ready._tokenizer
    if change == "edited":
        text = (copy / "tokenizer.json").read_text()
        (copy / "tokenizer.json").write_text(text + "\n")
    elif change == "added":
        (copy / "more.json").write_text("{}")
    runtime.load(Load("m", "genai", str(folder if change == "another folder" else copy)))
    assert (runtime._tokenizer is held) is (change == "nothing")
    wanted = Generate(1, [ChatMessage("user", "hi")], max_tokens=9, temperature=0)
    assert runtime.generate(wanted, lambda *_: None, lambda: False).completion_tokens > 0


def test_what_cannot_be_made_ready_is_no_failure(tmp_path):
    runtime = GenaiRuntime()
    runtime.make_ready(str(tmp_path / "none"))
    assert runtime._ready is None


def test_what_was_begun_is_taken_once_and_only_for_the_same(folder):
    load = {"path": str(folder), "runtime": "genai", "threads": 2}
    begun = genai_early.begin(load)
    assert begun is not None
    runtime = GenaiRuntime()
    assert runtime.load(Load("m", "genai", str(folder), threads=2)).device == "cpu"
    assert runtime._model._pointer == begun.model.result()
    assert genai_open.Begun.last is None
    wanted = Generate(1, [ChatMessage("user", "hi")], max_tokens=9, temperature=0)
    assert runtime.generate(wanted, lambda *_: None, lambda: False).completion_tokens > 0
    other = genai_early.begin(load)
    model, _tokenizer = genai_open.open_model(og, folder, "cpu", genai_open.overlay_of(1))
    assert model._pointer != other.model.result()


def test_a_thread_without_work_soon_sleeps_and_writes_the_same(folder):
    def first_token(overlay):
        model, tokenizer = genai_open.open_model(og, folder, "cpu", overlay)
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=8, do_sample=False)
        generator = og.Generator(model, parameters)
        generator.append_tokens(tokenizer.encode("hi there"))
        generator.generate_next_token()
        return [int(token) for token in generator.get_next_tokens()]

    options = genai_open.overlay_of(3)["model"]["decoder"]["session_options"]
    assert options == {"intra_op_num_threads": 3, **base.SESSION_ENTRIES}
    assert first_token(genai_open.overlay_of(3)) == first_token(
        {"model": {"decoder": {"session_options": {"intra_op_num_threads": 3}}}}
    )


@pytest.mark.parametrize("load", [{"path": "/none"}, {}, {"parallel": 2}, {"options": {"device": "abacus"}}])
def test_what_cannot_be_begun_is_left_to_the_load(folder, load):
    assert genai_early.begin({"path": str(folder), **load} if load else {}) is None


def test_another_version_is_opened_by_its_own_constructors(folder, monkeypatch):
    monkeypatch.setattr(genai_native, "LOOKED_AT", ("0.1.",))
    model, tokenizer = genai_open.open_model(og, folder, "cpu", OVERLAY)
    assert (type(model), type(tokenizer)) == (og.Model, og.Tokenizer)
    assert genai_early.begin({"path": str(folder)}) is None
    runtime = GenaiRuntime()
    runtime.make_ready(str(folder))
    runtime.load(Load("m", "genai", str(folder)))
    wanted = Generate(1, [ChatMessage("user", "hi")], max_tokens=9, temperature=0)
    assert runtime.generate(wanted, lambda *_: None, lambda: False).completion_tokens > 0
