"""Encoders from safetensors: what comes out is what transformers computes, and nothing bad goes in."""

from __future__ import annotations

import contextlib
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuroshell_orch import encoders
from neuroshell_orch.errors import OrchError
from neuroshell_orch.models.convert_encoder import convert_encoder
from neuroshell_orch.models.convert_encoder.archive import unpack
from neuroshell_orch.models.convert_encoder.safetensors_file import SafetensorsFile
from neuroshell_orch.models.formats import identify
from tests import support_encoder as tiny
from tests.models.embedding import embedded

DATA = Path(__file__).parents[1] / "data"
REFERENCE = np.load(DATA / "tiny_encoder_vectors.npz")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalise", [True, False])
def test_the_tiny_model_says_what_transformers_says(tmp_path, pooling, normalise):
    source = tiny.tiny_encoder(tmp_path / "source", pooling=pooling, normalise=normalise)
    told = []
    report = convert_encoder(source, tmp_path / "out", progress=lambda *step: told.append(step))
    assert told == [("convert", 0, 2), ("convert", 1, 2), ("convert", 2, 2)]
    assert (report.layers, report.encoder.max_tokens) == (2, tiny.MAX_TOKENS)
    assert {path.name for path in report.folder.iterdir()} == {
        "encoder_config.json",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
    }
    vectors = embedded(report.folder, tiny.TEXTS)
    assert np.abs(vectors - REFERENCE[f"{pooling}_{normalise}"]).max() < 1e-5


@pytest.mark.parametrize(("kind", "close"), [("F16", 2e-3), ("BF16", 3e-2)])
def test_half_precision_and_a_prefix(tmp_path, kind, close):
    source = tiny.tiny_encoder(tmp_path / "source", kind=kind, prefix="bert.")
    folder = convert_encoder(tiny.zipped(source, tmp_path / "model.zip"), tmp_path / "out").folder
    assert np.abs(embedded(folder, tiny.TEXTS) - REFERENCE["mean_True"]).max() < close
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_formats_of_an_encoder(tmp_path):
    source = tiny.tiny_encoder(tmp_path / "source")
    assert identify(source) == "safetensors"
    folder = tiny.converted(source, tmp_path / "out")
    assert identify(folder) == "encoder"
    for name in ("model.onnx", "model.onnx.data"):  # as others export it, with the weights that it was made from
        (source / "onnx").mkdir(exist_ok=True)
        (source / "onnx" / name).write_bytes((folder / name).read_bytes())
    assert identify(source) == "encoder"
    assert np.array_equal(embedded(source, tiny.TEXTS), embedded(folder, tiny.TEXTS))
    (source / "tokenizer.json").rename(source / "away")
    with pytest.raises(OrchError, match=r"tokenizer\.json does not exist"):
        identify(source)
    (source / "away").rename(source / "tokenizer.json")
    (source / "onnx" / "model.onnx").write_text("no model")
    with pytest.raises(OrchError, match="is a text file, where an ONNX model was expected"):
        identify(source)


@pytest.mark.parametrize(
    ("file", "changes", "problem", "text"),
    [
        ("config.json", {"model_type": "roberta"}, "unsupported", "family 'roberta'"),
        ("config.json", {"hidden_act": "relu"}, "unsupported", "hidden_act is not gelu"),
        ("config.json", {"position_embedding_type": "relative_key"}, "unsupported", "position_embedding_type"),
        ("config.json", {"num_attention_heads": 5}, "model-invalid", "does not divide"),
        ("config.json", {"num_hidden_layers": 3}, "model-invalid", "layer.2.attention.self.query.weight': is missing"),
        ("config.json", {"num_hidden_layers": 1}, "unsupported", "no part of a plain BERT"),
        ("config.json", {"num_hidden_layers": True}, "model-invalid", "num_hidden_layers must be"),
        ("config.json", {"vocab_size": 7}, "model-invalid", "was expected"),
        ("config.json", {"layer_norm_eps": 0}, "model-invalid", "layer_norm_eps must be"),
        ("config.json", {"layer_norm_eps": None}, "model-invalid", "layer_norm_eps must be"),
        ("1_Pooling/config.json", {"word_embedding_dimension": 31}, "model-invalid", "does not fit config.json"),
        ("tokenizer.json", {"model": {"vocab": {"a": 1 << 20}}}, "model-invalid", "has the token 1048576"),
        ("tokenizer.json", {"model": {}}, "model-invalid", "not a tokenizer with a vocabulary"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_left(tmp_path, file, changes, problem, text):
    source = tiny.tiny_encoder(tmp_path / "source")
    tiny.edit(source, file, **changes)
    with pytest.raises(OrchError, match=text) as caught:
        convert_encoder(source, tmp_path / "out")
    assert caught.value.problem == problem
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_missing_files_and_a_folder_in_the_way(tmp_path):
    source = tiny.tiny_encoder(tmp_path / "source")
    (tmp_path / "there").mkdir()
    with pytest.raises(OrchError, match="already something there"):
        convert_encoder(source, tmp_path / "there")
    for name in ("tokenizer.json", "config.json", "model.safetensors", "1_Pooling/config.json", "modules.json"):
        content = (source / name).read_bytes()
        (source / name).unlink()
        with pytest.raises(OrchError) as caught:
            convert_encoder(source, tmp_path / "out")
        assert caught.value.problem == "file-missing", name
        (source / name).write_bytes(content)
    with pytest.raises(OrchError, match="does not exist"):
        convert_encoder(tmp_path / "none.zip", tmp_path / "out")


# ---- safetensors ----


def container(table: object, data: bytes = b"") -> bytes:
    head = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(head)) + head + data


def one(**changes: object) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "the header"),
        (b"\xff" * 8, "does not fit"),
        (container(b"{", b""), "not a table"),
        (container([1]), "not a table"),
        (container({"w": 1}), "not a table"),
        (container(b"[" * 5000), "not a table"),
        (container(one(dtype="Q4"), bytes(8)), "type that is not known"),
        (container(one(shape=[3]), bytes(8)), "size of its shape"),
        (container(one(shape=[-2]), bytes(8)), "shape that cannot be"),
        (container(one(shape=[1] * 9), bytes(8)), "shape that cannot be"),
        (container(one(shape=[1 << 62, 4]), bytes(8)), "shape that cannot be"),
        (container(one(data_offsets=[0, 16]), bytes(8)), "does not lie within"),
        (container(one(data_offsets=[-8, 0]), bytes(8)), "does not lie within"),
        (container(one(data_offsets=[8, 0]), bytes(8)), "does not lie within"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, content, text):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(OrchError, match=text) as caught:
        SafetensorsFile(path)
    assert caught.value.problem == "model-invalid"


def test_values_must_be_finite_numbers_that_are_there(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(container(one(), struct.pack("<2f", 1, float("inf"))))
    with SafetensorsFile(path) as file, pytest.raises(OrchError, match="not finite"):
        file.floats("w")
    path.write_bytes(container(one(dtype="I32"), bytes(8)))
    with SafetensorsFile(path) as file, pytest.raises(OrchError, match="of the type I32"):
        file.floats("w")
    path.write_bytes(container(one(), struct.pack("<2f", 1, 2)))
    with SafetensorsFile(path) as file:
        assert file.floats("w").tolist() == [1, 2]
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(OrchError, match="shrank"):
            file.floats("w")
    with pytest.raises(OrchError, match="not a regular file"):
        SafetensorsFile(tmp_path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 400), byte=st.integers(0, 255), cut=st.integers(0, 600))
def test_a_damaged_container_is_an_error_and_nothing_else(tmp_path, at, byte, cut):
    path = tmp_path / "w.safetensors"
    tiny.write_safetensors(path, {"a": np.ones((3, 4), np.float32), "b": np.ones(5, np.float32)}, "F16")
    content = bytearray(path.read_bytes())
    content[at % len(content)] = byte
    path.write_bytes(content[: len(content) - cut % len(content)])
    with contextlib.suppress(OrchError), SafetensorsFile(path) as file:
        for name in file.tensors:
            file.floats(name)


# ---- archives ----


@pytest.mark.parametrize("name", ["../up.json", "/abs.json", "a/b/c.json", "a/../../x.json"])
def test_no_file_of_an_archive_lands_outside(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, "{}")
    (tmp_path / "in").mkdir()
    with pytest.raises(OrchError, match="outside of the folder"):
        unpack(tmp_path / "a.zip", tmp_path / "in")
    assert {path.name for path in tmp_path.rglob("*")} == {"a.zip", "in"}


def test_an_archive_that_is_none_or_is_damaged(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.zip").write_text("no archive")
    with pytest.raises(OrchError, match="BadZipFile"):
        unpack(tmp_path / "a.zip", tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps(list(range(1000))))
        archive.writestr("code.py", "raise SystemExit")
    raw = bytearray((tmp_path / "b.zip").read_bytes())
    raw[200] ^= 0xFF
    (tmp_path / "c.zip").write_bytes(raw)
    with pytest.raises(OrchError, match="cannot be unpacked"):
        unpack(tmp_path / "c.zip", tmp_path / "in")
    (tmp_path / "in" / "config.json").unlink()
    unpack(tmp_path / "b.zip", tmp_path / "in")
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["config.json"], "code is not even unpacked"


# ---- the real one ----


@pytest.mark.model
def test_minilm_says_what_transformers_says_and_what_was_published():
    folder = tiny.minilm_folder()
    assert encoders.read(folder).normalise
    entries = json.loads((DATA / "minilm_reference.json").read_text())
    texts = [entry["text"] for entry in entries]
    vectors = embedded(folder, texts)
    assert np.abs(vectors - np.load(DATA / "minilm_vectors.npz")["vectors"]).max() < 1e-5
    likeness = vectors @ vectors.T
    # as sentence-transformers' documentation shows them for this model
    for first, second, published in [(0, 1, 0.6660), (0, 2, 0.1046), (1, 2, 0.1411), (3, 4, 0.2838), (5, 6, 0.8939)]:
        assert likeness[first, second] == pytest.approx(published, abs=1e-4)
    assert likeness[7, 8] == pytest.approx(-0.0327, abs=1e-4)
