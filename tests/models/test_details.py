"""What is said about a model from its files: counted as it is, and nothing where a file is strange."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from neuroshell_orch.models import graph_facts
from neuroshell_orch.models.convert import convert_gguf
from neuroshell_orch.models.details import Details, described
from tests.models.tiny import TINY, shapes, write_tiny
from tests.support_models import smollm2_folder


def test_the_default_model():
    found = described(str(smollm2_folder()))
    assert (found.parameters, found.parameter_size) == (134_515_008, "134.5M"), "as its authors count"
    assert (found.family, found.precision, found.context_length, found.layers) == ("llama", "Q4", 8192, 30)
    assert found.size == sum(file.stat().st_size for file in smollm2_folder().iterdir())
    assert "<|im_start|>" in found.template
    assert not found.thinks


@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.parametrize("precision", ["int4", "float32"])
def test_converted_models_have_the_parameters_of_their_source(tmp_path, family, precision):
    tiny = TINY[family]
    convert_gguf(write_tiny(tmp_path / "source.gguf", tiny), tmp_path / "out", precision=precision)
    facts = graph_facts.read(tmp_path / "out" / "model.onnx")
    wanted = sum(int(np.prod(shape)) for name, shape in shapes(tiny).items() if name != "rope_freqs.weight")
    assert facts.parameters == wanted
    assert described(str(tmp_path / "out")).precision in ({"F32"} if precision == "float32" else {"Q4", "Q8"})


def test_a_plain_model_in_one_file(tmp_path):
    weight = numpy_helper.from_array(np.zeros((3, 5), np.float16), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT16, [1, 3])], [value("y", TensorProto.FLOAT16, [1, 5])], [weight]
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    assert described(str(tmp_path / "m.onnx")).parameter_size == "15"
    assert described(str(tmp_path / "m.onnx")).precision == "F16"


def test_what_changed_is_read_again(tmp_path):
    path = tmp_path / "genai_config.json"
    path.write_text('{"model": {"type": "llama"}}')
    assert described(str(tmp_path)).family == "llama"
    path.write_text('{"model": {"type": "qwen2!"}}')
    assert described(str(tmp_path)).family == "qwen2!"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("genai_config.json", "[" * 100_000),
        ("genai_config.json", '{"model": 3, "search": []}'),
        ("genai_config.json", '{"model": {"type": 4, "decoder": {"filename": "../x", "hidden_size": "big"}}}'),
        ("genai_config.json", '{"model": {"decoder": {"filename": "nowhere.onnx"}}}'),
        ("tokenizer_config.json", '{"chat_template": 5}'),
        ("tokenizer_config.json", "\udcff"),
    ],
)
def test_a_strange_folder_says_less(tmp_path, name, text):
    (tmp_path / name).write_bytes(os.fsencode(text))
    found = described(str(tmp_path))
    assert (found.family, found.parameters, found.template) == ("", 0, "")


def test_nothing_there():
    assert described("/nowhere/at/all") == Details()


def test_several_templates(tmp_path):
    templates = [{"name": "default", "template": "{{ tools }} <think>"}, {"name": "rag", "template": "x"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    found = described(str(tmp_path))
    assert (found.tools, found.thinks) == (True, True)


@settings(max_examples=300, deadline=None)
@given(cut=st.integers(0, 4000), at=st.integers(0, 4000), byte=st.integers(0, 255))
def test_damaged_files_harm_nobody(tmp_path_factory, cut, at, byte):
    folder = tmp_path_factory.mktemp("damaged")
    data = bytearray(SMALL)
    data[at % len(data)] = byte
    path = folder / "m.onnx"
    path.write_bytes(data[: cut or len(data)])
    assert graph_facts.read(path).parameters >= 0
    shutil.rmtree(folder)


def _small():
    tensors = [numpy_helper.from_array(np.zeros((2, n), np.float32), f"w{n}") for n in range(1, 9)]
    nodes = [helper.make_node("MatMulNBits", ["x", "w1", "w2"], ["y"], domain="com.microsoft", K=4, N=5, bits=4)]
    return helper.make_model(helper.make_graph(nodes, "g", [], [], tensors)).SerializeToString()


SMALL = _small()
