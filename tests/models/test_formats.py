"""What a file is, is decided by its content, and everything else gets a sentence that says what it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from neuroshell_orch.errors import OrchError
from neuroshell_orch.models.formats import identify
from tests.models.tiny import TINY, write_tiny


def onnx_bytes(**extra: str) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [out])
    return helper.make_model(graph, **extra).SerializeToString()


def genai_folder(folder: Path, filename: object = "model.onnx", model: bytes | None = None) -> Path:
    folder.mkdir()
    (folder / "genai_config.json").write_text(json.dumps({"model": {"decoder": {"filename": filename}}}))
    (folder / "model.onnx").write_bytes(onnx_bytes() if model is None else model)
    return folder


def test_the_three_formats_are_known_under_any_name(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(onnx_bytes())
    (tmp_path / "b.onnx").write_bytes(onnx_bytes(doc_string="long " * 2000, producer_name="somebody"))
    write_tiny(tmp_path / "c.onnx", TINY["qwen3"])
    folder = genai_folder(tmp_path / "d.gguf")
    (tmp_path / "link").symlink_to(folder)
    found = [identify(tmp_path / name) for name in ("a.txt", "b.onnx", "c.onnx", "d.gguf", "link")]
    assert found == ["onnx", "onnx", "gguf", "genai", "genai"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"Dear model,\nI am a letter.\n", "is a text file"),
        (b"\x7fELF\x02\x01\x01", "is a program"),
        (b"PK\x03\x04rest", "is a ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x20\x00\x00\x00\x00\x00\x00\x00" + b'{"w": {"dtype": "F32"}}         ', "safetensors"),
        (b"GGUF\x03\x00\x00\x00", "cut off"),
        (b"GGUF\x09\x00\x00\x00" + bytes(100), "a version that cannot be read"),
        (bytes(100), "no model file"),
        (os.urandom(1) + b"\xff" * 200, "no model file"),
        (onnx_bytes()[:-20], "no model file"),
    ],
)
def test_everything_else_is_named(content: bytes, what: str, tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(OrchError) as caught:
        identify(path)
    assert caught.value.problem == "model-invalid"
    assert what in caught.value.message
    assert str(path) in caught.value.message
    assert "genai_config.json" in caught.value.hint


def test_pipes_links_and_what_is_missing(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    for name, problem, what in (
        ("pipe", "model-invalid", "named pipe"),
        ("loop", "model-invalid", "leads back to itself"),
        ("dangling", "file-missing", "a link to something that does not exist"),
        ("none", "file-missing", "does not exist"),
        ("file/below", "file-missing", "does not exist"),
    ):
        with pytest.raises(OrchError, match=what) as caught:
            identify(tmp_path / name)
        assert caught.value.problem == problem
    with pytest.raises(OrchError, match="a socket or a device"):
        identify(Path("/dev/null"))


def test_a_folder_must_describe_a_model_of_its_own(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "model.onnx").write_bytes(onnx_bytes())
    outside = tmp_path / "outside.onnx"
    outside.write_bytes(onnx_bytes())
    escaping = genai_folder(tmp_path / "escaping")
    (escaping / "model.onnx").unlink()
    (escaping / "model.onnx").symlink_to(outside)
    broken = genai_folder(tmp_path / "broken")
    (broken / "genai_config.json").write_text("{" * 5000)
    missing = genai_folder(tmp_path / "missing", "other.onnx")
    piped = genai_folder(tmp_path / "piped")
    (piped / "genai_config.json").unlink()
    os.mkfifo(piped / "genai_config.json")
    for folder, problem, what in (
        (tmp_path / "empty", "model-invalid", "a folder without genai_config.json"),
        (tmp_path / "plain", "model-invalid", "a folder without genai_config.json"),
        (escaping, "model-invalid", "leads out of the folder"),
        (genai_folder(tmp_path / "up", "../outside.onnx"), "model-invalid", "leads out of the folder"),
        (genai_folder(tmp_path / "absolute", str(outside)), "model-invalid", "leads out of the folder"),
        (genai_folder(tmp_path / "number", 7), "model-invalid", "not the name of a file"),
        (genai_folder(tmp_path / "text", model=b"hello there"), "model-invalid", "is a text file, where"),
        (broken, "model-invalid", "not a description of a model"),
        (piped, "model-invalid", "named pipe"),
        (missing, "file-missing", "other.onnx does not exist"),
    ):
        with pytest.raises(OrchError) as caught:
            identify(folder)
        assert caught.value.problem == problem, folder
        assert what in caught.value.message, folder


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_have_an_answer(tmp_path: Path, content: bytes):
    path = tmp_path / "any"
    path.write_bytes(content)
    try:
        identify(path)
    except OrchError as error:
        assert error.problem == "model-invalid"  # noqa: PT017


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**63), st.text(max_size=40), st.text(max_size=40))
def test_whatever_onnx_writes_is_an_onnx_file(tmp_path: Path, version: int, producer: str, domain: str):
    path = tmp_path / "any"
    model = onnx.ModelProto.FromString(onnx_bytes(producer_name=producer, domain=domain))
    model.model_version = version - 2**62
    path.write_bytes(model.SerializeToString())
    assert identify(path) == "onnx"


def test_it_is_cheap_to_import():
    code = "import sys, neuroshell_orch.models.formats, neuroshell_orch.models.catalogue; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "onnx", "gguf", "tokenizers", "onnxruntime", "onnxruntime_genai"} & set(loaded)
