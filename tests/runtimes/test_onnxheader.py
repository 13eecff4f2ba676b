"""The head of an ONNX file: what it declares, and that nothing in it can surprise the reader."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes.onnxfile import MalformedError
from neuroshell_orch.runtimes.onnxheader import DATATYPES, Value, read_file, read_header


def model(ir_version=8, kind=TensorProto.FLOAT):
    node = helper.make_node("Add", ["a", "b"], ["sum"])
    inputs = [
        helper.make_tensor_value_info("b", kind, [2]),
        helper.make_tensor_value_info("a", kind, ["n", None, 3]),
        helper.make_tensor_value_info("c", kind, None),
    ]
    weight = numpy_helper.from_array(np.array([1, 2], np.float32), "b")
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("sum", kind, [])], initializer=[weight]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=ir_version)


MODEL = model().SerializeToString()


def test_inputs_with_a_value_of_their_own_come_last_or_were_none_in_old_files():
    header = read_header(memoryview(MODEL))
    assert header.inputs == [Value("a", "FP32", [-1, -1, 3]), Value("c", "FP32", None), Value("b", "FP32", [2])]
    assert (header.outputs, header.optional) == ([Value("sum", "FP32", [])], ["b"])
    old = read_header(memoryview(model(3).SerializeToString()))
    assert ([value.name for value in old.inputs], old.optional) == (["a", "c"], [])


@pytest.mark.parametrize("number", DATATYPES)
def test_every_type_has_the_name_of_its_number(number):
    ours, theirs = DATATYPES[number], TensorProto.DataType.Name(number)
    names = {"FLOAT": "FP32", "DOUBLE": "FP64", "FLOAT16": "FP16", "BFLOAT16": "BF16", "STRING": "BYTES"}
    assert ours == names.get(theirs, theirs.replace("FLOAT8", "FP8").replace("FLOAT4", "FP4"))


@given(st.binary(max_size=60), st.integers(0, len(MODEL)))
def test_no_bytes_surprise_the_reader(junk, cut):
    for content in (junk, MODEL[:cut], MODEL[:cut] + junk, junk + MODEL[cut:]):
        try:
            read_header(memoryview(content))
        except MalformedError:
            continue


def test_the_program_prints_it_and_imports_no_runtime(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save_model(model(), str(path))

    def program(file):
        command = [sys.executable, "-P", "-X", "importtime", "-m", "neuroshell_orch.runtimes.onnxheader", str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=True)

    done = program(path)
    assert json.loads(done.stdout)["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [-1, -1, 3]}
    assert not {"numpy", "onnxruntime", "onnx"} & {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert json.loads(program(tmp_path / "none.onnx").stdout)["problem"] == "file-missing"


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x08\x08"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(OrchError, match=r"m\.onnx") as refused:
        read_file(path)
    assert refused.value.problem == "model-invalid"
