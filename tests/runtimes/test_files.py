"""What may be a model's file, and which files an ONNX model names."""

from __future__ import annotations

import contextlib
import json
import os

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import files
from neuroshell_orch.runtimes.files import check_genai, check_onnx, open_beneath
from neuroshell_orch.runtimes.onnxfile import MalformedError, external_data


def outside(name, location, offset=0, length=16):
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": str(offset), "length": str(length)}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def model(*tensors, nodes=()):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        initializer=list(tensors),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def nested():
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=outside("c", "constant.bin", 8, 16))],
        "inner",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])],
        initializer=[outside("w", "inner.bin")],
    )
    condition = numpy_helper.from_array(np.array(True), "yes")
    return model(
        outside("a", "a.bin", 0, 16),
        outside("b", "a.bin", 4096, 16),
        condition,
        nodes=[helper.make_node("If", ["yes"], ["z"], then_branch=inner, else_branch=inner)],
    )


def test_every_place_where_a_tensor_can_stand_is_visited():
    assert external_data(memoryview(nested())) == {"a.bin": 4112, "inner.bin": 16, "constant.bin": 24}
    assert external_data(memoryview(model())) == {}


@given(st.integers(0, len(nested())))
def test_a_cut_off_file_is_malformed_or_has_less(size):
    try:
        found = external_data(memoryview(nested()[:size]))
    except MalformedError:
        return
    assert set(found) <= {"a.bin", "inner.bin", "constant.bin"}


@given(st.binary(max_size=200))
def test_no_bytes_surprise_the_parser(data):
    with contextlib.suppress(MalformedError):
        external_data(memoryview(data))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (tmp_path / "secret").write_bytes(b"s" * 100)
    (path / "good.bin").write_bytes(b"g" * 100)
    (path / "sub").mkdir()
    (path / "sub" / "deep.bin").write_bytes(b"d" * 100)
    (path / "link.bin").symlink_to("good.bin")
    (path / "linked").symlink_to("sub")
    os.link(tmp_path / "secret", path / "hard.bin")
    os.mkfifo(path / "fifo.bin")
    return path


@pytest.mark.parametrize("name", ["good.bin", "sub/deep.bin", "./good.bin"])
def test_allowed(folder, name):
    os.close(open_beneath(folder, name))
    (folder / "m.onnx").write_bytes(model(outside("w", name)))
    assert [path.resolve() for path in check_onnx(folder / "m.onnx")] == [(folder / name).resolve()]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../secret", "leaves the model's folder"),
        ("sub/../../secret", "leaves the model's folder"),
        ("/etc/passwd", "leaves the model's folder"),
        ("", "leaves the model's folder"),
        ("link.bin", "plain file"),
        ("linked/deep.bin", "plain file"),
        ("hard.bin", "hard link"),
        ("fifo.bin", "regular file"),
        ("sub", "regular file"),
    ],
)
def test_refused(folder, name, words):
    (folder / "m.onnx").write_bytes(model(outside("w", name)))
    with pytest.raises(OrchError, match=words) as refused:
        check_onnx(folder / "m.onnx")
    assert refused.value.problem == "model-invalid"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"not a model at all", "not an ONNX model"),
        (b"GGUF" + bytes(100), "not an ONNX model"),
        (b"\x08\x08", "no graph"),
        (model()[:-10], "not an ONNX model"),
        (model(outside("w", "good.bin", 90, 16)), "100 bytes and the model needs 106"),
        (model(outside("w", "good.bin", "x", 16)), "not a number"),
    ],
    ids=["empty", "text", "gguf", "no graph", "cut off", "short data", "offset"],
)
def test_broken(folder, content, words):
    (folder / "m.onnx").write_bytes(content)
    with pytest.raises(OrchError, match=words) as broken:
        check_onnx(folder / "m.onnx")
    assert broken.value.problem == "model-invalid"


def test_a_missing_data_file_is_named(folder):
    (folder / "m.onnx").write_bytes(model(outside("w", "gone.bin")))
    with pytest.raises(OrchError, match=r"gone\.bin") as missing:
        check_onnx(folder / "m.onnx")
    assert missing.value.problem == "file-missing"


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        ({"filename": "../secret"}, "leaves"),
        ({"filename": "hard.bin"}, "hard link"),
        ({"filename": "m.onnx", "session_options": {"custom_ops_library": "x.so"}}, "custom_ops_library"),
        ({"filename": "m.onnx", "pipeline": [{"stage": {"filename": "/etc/passwd"}}]}, "leaves"),
    ],
)
def test_a_genai_configuration_may_not_escape(folder, decoder, words):
    (folder / "m.onnx").write_bytes(model())
    (folder / "fifo.bin").unlink()
    with pytest.raises(OrchError, match=words):
        check_genai(folder, {"model": {"decoder": decoder}})


def test_a_genai_configuration_names_its_data(folder):
    (folder / "m.onnx").write_bytes(model(outside("w", "good.bin")))
    (folder / "fifo.bin").unlink()
    assert check_genai(folder, json.loads('{"model":{"decoder":{"filename":"m.onnx"}}}')) == [folder / "good.bin"]


def test_no_descriptor_is_left_open_by_a_refusal(folder):
    before = len(os.listdir("/proc/self/fd"))
    for name in ("../secret", "hard.bin", "fifo.bin", "linked/deep.bin", "gone"):
        with pytest.raises(OrchError):
            open_beneath(folder, name)
    assert len(os.listdir("/proc/self/fd")) == before


def test_onnx_agrees_about_a_saved_model(tmp_path):
    loaded = onnx.load_model_from_string(model(numpy_helper.from_array(np.ones(4000, np.float32), "w")))
    onnx.save_model(loaded, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=10)
    assert check_onnx(tmp_path / "m.onnx") == [tmp_path / "m.data"]


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """A genai folder, its configuration, and the graphs that are read for its checks."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "m.onnx").write_bytes(model(outside("w", "m.onnx.data")))
    (tmp_path / "m.onnx.data").write_bytes(bytes(64))
    (tmp_path / "sub" / "other.onnx").write_bytes(model())
    config = {"model": {"decoder": {"filename": "m.onnx"}, "vision": {"filename": "sub/other.onnx"}}}
    (tmp_path / "genai_config.json").write_text(json.dumps(config))
    read = []

    def noted(path):
        read.append(path.name)
        return check_onnx(path)

    monkeypatch.setattr(files, "check_onnx", noted)
    return tmp_path, config, read


def test_what_was_checked_is_not_read_again(checked):
    folder, config, read = checked
    for _ in range(3):
        assert check_genai(folder, config) == [folder / "m.onnx.data"]
    assert sorted(read) == ["m.onnx", "other.onnx"]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "m.onnx").write_bytes(b"no longer a model"),
        lambda folder: (folder / "m.onnx.data").write_bytes(bytes(8)),
        lambda folder: os.link(folder / "m.onnx.data", folder.parent / f"{folder.name}.name"),
        lambda folder: (folder / "sub" / "other.onnx").unlink(),
        lambda folder: os.mkfifo(folder / "pipe"),
    ],
)
def test_a_change_is_noticed(checked, change):
    folder, config, _ = checked
    check_genai(folder, config)
    change(folder)
    with pytest.raises(OrchError):
        check_genai(folder, config)


def test_what_changes_while_it_is_checked_is_checked_again(checked, monkeypatch):
    folder, config, read = checked
    noted = files.check_onnx

    def meddled(path):
        (folder / "new").touch()
        return noted(path)

    monkeypatch.setattr(files, "check_onnx", meddled)
    check_genai(folder, config)
    monkeypatch.setattr(files, "check_onnx", noted)
    check_genai(folder, config)
    check_genai(folder, config)
    assert sorted(read) == ["m.onnx", "m.onnx", "other.onnx", "other.onnx"]
