"""GGUF files that are damaged or hostile end in one sentence that names the field, never in a crash."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from gguf import GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuroshell_orch.errors import OrchError
from neuroshell_orch.models.convert import convert_gguf
from neuroshell_orch.models.convert.gguf_file import GgufFile
from tests.models.tiny import HIDDEN, TINY, write_tiny

EXPECTED = {"model-invalid", "unsupported"}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny(tmp_path_factory.mktemp("good") / "tiny.gguf", TINY["llama-tied"]).read_bytes()


def header(*, magic: bytes = b"GGUF", version: int = 3, tensors: int = 0, fields: int = 0, rest: bytes = b"") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, fields) + rest


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def entry(name: bytes, dimensions: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)


BAD = {
    "magic": (header(magic=b"GGML"), "magic"),
    "version": (header(version=1), "version"),
    "big-endian": (header(version=3 << 24), "version"),
    "cut off": (b"GGUF\x03\x00", "version"),
    "too many tensors": (header(tensors=1 << 60), "tensor_count"),
    "too many fields": (header(fields=1 << 60), "kv_count"),
    "fields that are not there": (header(fields=2), "field 0's name"),
    "a long name": (header(fields=1, rest=text(b"x", 1 << 62)), "field 0's name"),
    "a name that is not text": (header(fields=1, rest=text(b"\xff\xfe")), "not UTF-8"),
    "a long string": (header(fields=1, rest=text(b"k") + struct.pack("<IQ", 8, 1 << 63)), "k: needs"),
    "an unknown type": (header(fields=1, rest=text(b"k") + struct.pack("<I", 77)), "unknown value type 77"),
    "an endless array": (header(fields=1, rest=text(b"k") + struct.pack("<IIQ", 9, 4, 1 << 60)), "k: claims"),
    "an array of strings": (header(fields=1, rest=text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 20)), "k: needs"),
    "nested arrays": (header(fields=1, rest=text(b"k") + struct.pack("<IIQ", 9, 9, 1)), "nested"),
    "a field twice": (header(fields=2, rest=(text(b"k") + struct.pack("<IB", 0, 1)) * 2), "k: appears twice"),
    "no dimensions": (header(tensors=1, rest=entry(b"t", [])), "'t'.*0 dimensions"),
    "nine dimensions": (header(tensors=1, rest=entry(b"t", [1] * 9)), "9 dimensions"),
    "an unknown block type": (header(tensors=1, rest=entry(b"t", [32], 99)), "unknown block type 99"),
    "half a block": (header(tensors=1, rest=entry(b"t", [33], 8)), "not a multiple"),
    "a huge tensor": (header(tensors=1, rest=entry(b"t", [1 << 60, 1 << 60])), "'t'.*ends at byte"),
    "an empty tensor": (header(tensors=1, rest=entry(b"t", [0])), "'t'.*empty"),
    "an odd offset": (header(tensors=1, rest=entry(b"t", [1], offset=3)), "offset 3"),
    "data that is not there": (header(tensors=1, rest=entry(b"t", [8])), "ends at byte"),
    "alignment": (
        header(fields=1, rest=text(b"general.alignment") + struct.pack("<II", 4, 7) + bytes(64)),
        "general.alignment",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header_names_its_field(name: str, tmp_path: Path):
    content, expected = BAD[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(OrchError, match=expected) as caught:
        GgufFile(path)
    assert caught.value.problem == "model-invalid"
    assert str(path) in caught.value.message


def test_missing_empty_and_special_files(tmp_path: Path):
    with pytest.raises(OrchError) as caught:
        GgufFile(tmp_path / "none.gguf")
    assert caught.value.problem == "file-missing"
    (tmp_path / "empty.gguf").touch()
    os.mkfifo(tmp_path / "pipe.gguf")
    for name in ("empty.gguf", "pipe.gguf", "."):
        with pytest.raises(OrchError) as caught:
            GgufFile(tmp_path / name)
        assert caught.value.problem == "model-invalid"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_ends_in_a_sentence(good: bytes, tmp_path: Path, data: st.DataObject):
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, 9000))
        changed[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    path, out = tmp_path / "damaged.gguf", tmp_path / "out"
    path.write_bytes(changed)
    try:
        convert_gguf(path, out)
    except OrchError as error:
        assert error.problem in EXPECTED  # noqa: PT017
        assert not out.exists()
    else:
        for file in out.iterdir():
            file.unlink()
        out.rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.gguf"]


def changed_llama(path: Path, changes: dict, family: str = "llama") -> Path:
    """The beginning of a llama file, with ``changes`` to its fields and tensors."""
    items = {
        "llama.block_count": 1,
        "llama.context_length": 16,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "token_embd.weight": (300, HIDDEN),
    } | changes
    writer = GGUFWriter(path, family)
    for key, value in items.items():
        match value:
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case int():
                writer.add_uint32(key, value)
            case tuple():
                writer.add_tensor(key, np.zeros(value, dtype=np.float32))
    if changes.get("token_embd.weight", 1) is None:
        writer.add_tensor("other", np.zeros(1, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# What is changed (None takes a field away), the problem, and what its sentence says.
WRONG = {
    "layers": ({"llama.block_count": None}, "model-invalid", "llama.block_count: is missing"),
    "absurd layers": ({"llama.block_count": 10**9}, "model-invalid", "llama.block_count: is 1000"),
    "no heads": ({"llama.attention.head_count": 0}, "model-invalid", "head_count: is 0"),
    "kv heads": ({"llama.attention.head_count_kv": 3}, "model-invalid", "does not divide"),
    "odd heads": ({"llama.attention.key_length": 15}, "model-invalid", "rope.dimension_count.*even"),
    "values": ({"llama.attention.value_length": 32}, "model-invalid", "differs from key_length"),
    "epsilon": ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "model-invalid", "epsilon: is nan"),
    "text for a number": ({"llama.context_length": "long"}, "model-invalid", "context_length: is 'long'"),
    "yarn": ({"llama.rope.scaling.type": "yarn"}, "unsupported", "'yarn'.*linear"),
    "experts": ({"llama.expert_count": 8}, "unsupported", "mixture of experts"),
    "no embedding": ({"token_embd.weight": None}, "model-invalid", "'token_embd.weight'.*missing"),
    "no layer": ({}, "model-invalid", "'output_norm.weight'.*missing"),
    "another shape": ({"output_norm.weight": (8,)}, "model-invalid", r"has the shape \(8,\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_does_not_fit_is_refused(name: str, tmp_path: Path):
    changes, problem, expected = WRONG[name]
    path = changed_llama(tmp_path / "wrong.gguf", changes)
    with pytest.raises(OrchError) as caught:
        convert_gguf(path, tmp_path / "out")
    assert caught.value.problem == problem
    assert re.search(expected, str(caught.value)), str(caught.value)
    assert not set(tmp_path.iterdir()) - {path}


def test_another_family_names_those_that_work(tmp_path: Path):
    path = changed_llama(tmp_path / "wrong.gguf", {}, family="gemma3")
    with pytest.raises(OrchError, match=r"'gemma3'.*llama, qwen2, qwen3") as caught:
        convert_gguf(path, tmp_path / "out")
    assert caught.value.problem == "unsupported"


def test_an_unknown_tokenizer_names_those_that_work(tmp_path: Path):
    path = write_tiny(tmp_path / "t.gguf", replace(TINY["llama-tied"], pre="chameleon"))
    with pytest.raises(OrchError, match=r"'chameleon'.*smollm, qwen2") as caught:
        convert_gguf(path, tmp_path / "out")
    assert caught.value.problem == "unsupported"


def test_conversion_never_overwrites_and_reports_progress(tmp_path: Path):
    path = write_tiny(tmp_path / "t.gguf", TINY["qwen2"])
    seen: list[tuple[str, int, int]] = []
    report = convert_gguf(path, tmp_path / "out", progress=lambda *told: seen.append(told))
    assert seen == [("convert", 0, 2), ("convert", 1, 2), ("convert", 2, 2)]
    assert report.has_template
    names = {"genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in report.folder.iterdir()} == names
    with pytest.raises(OrchError) as caught:
        convert_gguf(path, tmp_path / "out")
    assert caught.value.problem == "model-exists"
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut" / "file").touch()
    with pytest.raises(OrchError) as caught:
        convert_gguf(path, tmp_path / "shut" / "file" / "out")
    assert caught.value.problem == "not-allowed"


def test_every_tensor_starts_on_a_page(tmp_path: Path):
    path = write_tiny(tmp_path / "t.gguf", TINY["qwen3"])
    convert_gguf(path, tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    places = {t.name: {e.key: e.value for e in t.external_data} for t in model.graph.initializer if t.external_data}
    assert len(places) > 20
    assert all(int(place["offset"]) % 4096 == 0 for place in places.values())
    assert places["token_embd.packed"] == places["token_embd.table"], "a tied embedding lies there once"
