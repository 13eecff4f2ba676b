"""The two layouts of an encoder's folder, and what is refused in them."""

from __future__ import annotations

import json
import os

import pytest

from neuroshell_orch import encoders
from neuroshell_orch.encoders import Encoder
from neuroshell_orch.errors import OrchError
from tests import support_encoder as tiny


@pytest.fixture
def folder(tmp_path):
    return tiny.tiny_encoder(tmp_path / "m")


PLAIN = Encoder(max_tokens=24, dimensions=32, pooling="mean", normalise=True, graph="")
SETTINGS = "config_sentence_transformers.json"


@pytest.mark.parametrize(
    ("file", "changes", "expected"),
    [
        ("config.json", {}, {}),
        ("sentence_bert_config.json", {"max_seq_length": 512}, {"max_tokens": 48}),
        ("sentence_bert_config.json", {"max_seq_length": None}, {"max_tokens": 48}),
        ("sentence_bert_config.json", {"do_lower_case": True}, {"lowercase": True}),
        ("config.json", {"max_position_embeddings": 20, "model_type": "roberta"}, {"max_tokens": 18}),
        ("config.json", {"matryoshka_dimensions": [8, 16]}, {"shorter": [8, 16]}),
        ("config.json", {"is_matryoshka": True}, {"any_shorter": True}),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False, "pooling_mode": "cls"}, {"pooling": "cls"}),
        ("1_Pooling/config.json", {"word_embedding_dimension": None}, {}),
        (SETTINGS, {"prompts": {"query": "q: "}, "default_prompt_name": "query"}, {"prompt": "q: "}),
        (SETTINGS, {"prompts": {"query": "q: "}}, {}),
    ],
)
def test_sentence_transformers_layout(folder, file, changes, expected):
    tiny.edit(folder, file, **changes)
    found = encoders.read(folder)
    assert found == encoders.msgspec.structs.replace(PLAIN, **expected)


def test_limits_without_any_file_that_names_one(folder):
    (folder / "sentence_bert_config.json").unlink()
    (folder / "config.json").unlink()
    assert encoders.read(folder).max_tokens == 512
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    assert encoders.read(folder).max_tokens == 512
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    assert encoders.read(folder).max_tokens == 77


def test_a_transformer_in_a_folder_of_its_own(folder):
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer/"
    modules[0]["type"] = "sentence_transformers.base.modules.transformer.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "sentence_bert_config.json"):
        (folder / name).rename(folder / "0_Transformer" / name)
    (folder / "0_Transformer" / "onnx").mkdir()
    (folder / "0_Transformer" / "onnx" / "model.onnx").touch()
    found = encoders.read(folder)
    assert (found.graph, found.tokenizer) == ("0_Transformer/onnx/model.onnx", "0_Transformer/tokenizer.json")
    assert (found.normalise, found.max_tokens) == (False, 24)


def modules(*kinds, path="1_Pooling"):
    paths = ["", path, "2", "3"]
    return [{"type": f"s.{kind}", "path": paths[number]} for number, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("file", "content", "problem", "text"),
    [
        ("modules.json", [], "unsupported", "the modules are none"),
        ("modules.json", modules("Transformer"), "unsupported", "are Transformer"),
        ("modules.json", modules("Transformer", "Pooling", "Dense"), "unsupported", "Pooling, Dense"),
        ("modules.json", modules("Transformer", "Pooling", "Normalize", "Normalize"), "unsupported", "modules are"),
        ("modules.json", {"a": 1}, "model-invalid", "not a list of modules"),
        ("modules.json", [1], "model-invalid", "not a list of modules"),
        ("modules.json", modules("Transformer", "Pooling", path="../x"), "model-invalid", "leads out of the folder"),
        ("modules.json", modules("Transformer", "Pooling", path="/etc"), "model-invalid", "leads out of the folder"),
        ("modules.json", modules("Transformer", "Pooling", path=5), "model-invalid", "leads out of the folder"),
        ("modules.json", modules("Transformer", "Pooling", path="none"), "file-missing", "does not exist"),
        ("1_Pooling/config.json", {"word_embedding_dimension": 32}, "unsupported", "the pooling is not given"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "unsupported", "pooling_mode_max_tokens"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "unsupported", "the pooling is lasttoken"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "unsupported",
            "cls, mean",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": False}, "unsupported", "include_prompt"),
        ("1_Pooling/config.json", {"pooling_mode": "mean", "word_embedding_dimension": 0}, "model-invalid", "number"),
        ("1_Pooling/config.json", [], "model-invalid", "not a JSON object"),
        ("config.json", {"matryoshka_dimensions": ["a"]}, "model-invalid", "whole numbers"),
        (SETTINGS, {"default_prompt_name": "q"}, "model-invalid", "names no prompt"),
    ],
)
def test_what_cannot_be_used_is_named(folder, file, content, problem, text):
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(OrchError, match=text) as caught:
        encoders.read(folder)
    assert caught.value.problem == problem
    assert str(folder) in caught.value.message


@pytest.mark.parametrize("raw", [b"{", b"\xff", b"[" * 100_000, b""])
def test_what_is_not_json(folder, raw):
    (folder / "config.json").write_bytes(raw)
    with pytest.raises(OrchError, match="not valid JSON"):
        encoders.read(folder)


def test_pipes_and_giants_are_not_read(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(OrchError, match="not a regular file"):
        encoders.read(folder)
    (folder / "config.json").unlink()
    with (folder / "config.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(OrchError, match="4 MiB at most"):
        encoders.read(folder)


def test_our_own_layout_goes_round(tmp_path):
    whole = Encoder(24, 32, "cls", False, "g.onnx", "t.json", True, "q: ", [8], False)
    encoders.write(tmp_path, whole)
    assert encoders.is_encoder(tmp_path)
    assert encoders.read(tmp_path) == whole
    for change in ({"pooling": "max"}, {"max_tokens": 0}, {"dimensions": True}, {"graph": "../x"}, {"pooling": None}):
        encoders.write(tmp_path, whole)
        tiny.edit(tmp_path, encoders.FILE, **change)
        with pytest.raises(OrchError) as caught:
            encoders.read(tmp_path)
        assert caught.value.problem == "model-invalid", change


def test_shorter_vectors():
    assert [size for size in range(5) if Encoder(9, 3, "mean", True).allows(size)] == [3]
    assert [size for size in range(5) if Encoder(9, 3, "mean", True, shorter=[1]).allows(size)] == [1, 3]
    assert [size for size in range(5) if Encoder(9, 3, "mean", True, any_shorter=True).allows(size)] == [1, 2, 3]
