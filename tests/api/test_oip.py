"""The Open Inference Protocol's JSON tensors: to bytes and back, and what is said of bad ones."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.api.oip_data import CODES, SIZES, InputTensor, from_tensor, to_tensor
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Tensor

NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "u2",
    "UINT32": "u4",
    "UINT64": "u8",
    "INT8": "i1",
    "INT16": "i2",
    "INT32": "i4",
    "INT64": "i8",
    "FP16": "f2",
    "FP32": "f4",
    "FP64": "f8",
}


def test_every_datatype_with_a_json_form_is_known():
    assert NUMPY.keys() == CODES.keys()


@pytest.mark.parametrize("datatype", sorted(NUMPY))
def test_bytes_are_what_numpy_would_write(datatype):
    values = [True, False, True, True, False, False] if datatype == "BOOL" else [0, 1, 2, 3, 100, 127]
    tensor = to_tensor(InputTensor("x", [2, 3], datatype, [values[:3], values[3:]]))
    assert tensor.data == np.array(values, NUMPY[datatype]).astype(NUMPY[datatype], order="C").tobytes()
    assert from_tensor(tensor) == {"name": "x", "shape": [2, 3], "datatype": datatype, "data": values}


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_floats_come_back_exactly(values):
    tensor = to_tensor(InputTensor("x", [len(values)], "FP32", values))
    assert from_tensor(tensor)["data"] == values


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_strings_come_back_exactly(values):
    assert from_tensor(to_tensor(InputTensor("x", [len(values)], "BYTES", values)))["data"] == values


@pytest.mark.parametrize("shape", [[], [0], [2, 0, 3]])
def test_scalars_and_empty_tensors(shape):
    values = [7] * math.prod(shape)
    assert to_tensor(InputTensor("x", shape, "INT64", values or [])).data == struct.pack(f"<{len(values)}q", *values)


BAD = [
    (InputTensor("x", [2], "FP32", [1.0]), "1 values"),
    (InputTensor("x", [-1], "FP32", []), "negative"),
    (InputTensor("x", [1], "FP99", [1.0]), "FP99"),
    (InputTensor("x", [1], "FP32", ["secret"]), "not numbers"),
    (InputTensor("x", [1], "INT32", [1.5]), "fractions"),
    (InputTensor("x", [1], "INT8", [400]), "do not fit"),
    (InputTensor("x", [1], "FP16", [1e30]), "do not fit"),
    (InputTensor("x", [1], "BYTES", [1]), "not strings"),
    (InputTensor("x", [1], "FP8E4M3FN", [1.0]), "FP8E4M3FN"),
    (InputTensor("x", [1], "BF16", [3.4e38]), "do not fit"),
    (InputTensor("x", [1], "FP32", ["nan secret"]), "not numbers"),
    (InputTensor("x", [1], "INT64", ["NaN"]), "not numbers"),
    (InputTensor("x", [1], "INT64", [True]), "true or false"),
    (InputTensor("x", [1], "BOOL", [2]), "do not fit"),
    (InputTensor("x", [1], "BOOL", [1.0]), "fractions"),
    (InputTensor("x", [1] * 65, "FP32", [1.0]), "64 dimensions"),
    (InputTensor("x", [1 << 40, 1 << 40], "FP32", [1.0]), "1 values"),
]


@pytest.mark.parametrize(("tensor", "words"), BAD)
def test_bad_tensors_are_named_and_their_values_are_not_repeated(tensor, words):
    with pytest.raises(OrchError, match=words) as caught:
        to_tensor(tensor)
    assert "'x'" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_what_json_cannot_carry_is_said():
    with pytest.raises(OrchError, match="not text") as refused:
        from_tensor(Tensor("y", "BYTES", [1], b"\1\0\0\0\xff"))
    assert "binary_data" in refused.value.hint


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16"])
def test_what_json_has_no_number_for_is_a_word(datatype):
    words = ["NaN", "Infinity", "-Infinity", 1.5]
    tensor = to_tensor(InputTensor("x", [4], datatype, words))
    assert len(tensor.data) == 4 * SIZES[datatype]
    assert from_tensor(tensor)["data"] == words
    assert to_tensor(InputTensor("x", [4], datatype, [math.nan, math.inf, -math.inf, 1.5])).data == tensor.data


@given(st.integers(0, 0xFFFF))
def test_every_bf16_comes_back_but_for_the_payload_of_a_nan(half):
    raw = struct.pack("<H", half)
    (shown,) = from_tensor(Tensor("x", "BF16", [1], raw))["data"]
    again = to_tensor(InputTensor("x", [1], "BF16", [shown])).data
    assert again == raw or shown == "NaN"


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**127), max_value=2.0**127))
def test_bf16_is_rounded_to_the_nearest(number):
    (shown,) = from_tensor(to_tensor(InputTensor("x", [1], "BF16", [number])))["data"]
    assert abs(shown - number) <= max(abs(number) * 2**-8, 2**-133)


def test_a_real_onnx_model_through_the_daemon(manager):
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["a", "b"], ["product"])],
        "two",
        [helper.make_tensor_value_info(n, types.FLOAT, ["n"]) for n in ("a", "b")],
        [helper.make_tensor_value_info(n, types.FLOAT, ["n"]) for n in ("sum", "product")],
    )
    path = manager.root / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    manager.register("two", path, "onnx")
    manager.start(real=True)
    body = {
        "id": "42",
        "inputs": [
            {"name": "a", "shape": [3], "datatype": "FP32", "data": [1, 2, 3]},
            {"name": "b", "shape": [3], "datatype": "FP32", "data": [4, 5, 6]},
        ],
        "outputs": [{"name": "product"}],
    }
    assert manager.get("/v2/models/two")["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [-1]}
    assert manager.phase("two") == "COLD", "looking does not load it"
    answer = manager.post("/v2/models/two/infer", body)
    assert answer["id"] == "42"
    assert answer["outputs"] == [{"name": "product", "datatype": "FP32", "shape": [3], "data": [4.0, 10.0, 18.0]}]
    body.pop("outputs")
    assert [output["name"] for output in manager.post("/v2/models/two/infer", body)["outputs"]] == ["sum", "product"]
    assert manager.get("/v2/models/two")["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [-1]}
    body["inputs"][0]["name"] = "c"
    with pytest.raises(OrchError, match="c"):
        manager.post("/v2/models/two/infer", body)
    assert manager.phase("two") == "HOT", "a bad request costs no worker"
