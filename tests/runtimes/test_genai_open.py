"""Opening a genai folder beside the interpreter's lock, and without the conduit as genai itself does it."""

from __future__ import annotations

import json
import shutil
import threading
from types import SimpleNamespace

import onnxruntime_genai as og
import pytest

from neuroshell_orch.runtimes import genai_open
from tests.support_tiny import tiny_genai_folder

OVERLAY = {"model": {"decoder": {"session_options": {"intra_op_num_threads": 2}}}}
TURNS = json.dumps([{"role": "user", "content": "hello"}])


class Plain:
    """genai's module as a version without the conduit would be."""

    __file__ = og.__file__
    Config, Tokenizer = og.Config, og.Tokenizer

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
