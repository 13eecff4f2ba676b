"""What happens to a graph while its copy is prepared: matrices in parts, data at its address, results compared."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import aligning, comparing, prepare, splitting
from neuroshell_orch.runtimes.onnx import open_session
from tests.api.support_real import INPUTS, MODELS, model_file

BLOCK = 32


def matrices(path, sizes, *, bits=4, zeros=True, bias=False, outside=True):
    """A chain of quantised matrices; ``sizes`` are the widths between them."""
    random = np.random.default_rng(3)
    nodes, weights, value = [], [], "x"
    for number, (columns, rows) in enumerate(pairwise(sizes)):
        blocks = -(-columns // BLOCK)
        names = [f"{kind}{number}" for kind in ("b", "s", "z", "o", "c")]
        made = [
            random.integers(0, 256, (rows, blocks, BLOCK * bits // 8), dtype=np.uint8),
            random.random(rows * blocks, np.float32) / 100,
            random.integers(0, 256, rows * -(-blocks * bits // 8), dtype=np.uint8),
            np.zeros(0),
            random.random(rows, np.float32),
        ]
        there = [True, True, zeros, False, bias]
        made = [tensor if present else None for tensor, present in zip(made, there, strict=True)]
        weights += [numpy_helper.from_array(x, name) for x, name in zip(made, names, strict=True) if x is not None]
        inputs = [value, *("" if x is None else name for x, name in zip(made, names, strict=True))]
        while not inputs[-1]:
            inputs.pop()
        value = f"y{number}"
        kind = {"K": columns, "N": rows, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
        nodes.append(helper.make_node("MatMulNBits", inputs, [value], domain="com.microsoft", **kind))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", sizes[0]])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", sizes[-1]])],
        initializer=weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    data = f"{path.name}.weights"
    onnx.save_model(model, str(path), save_as_external_data=outside, location=data, size_threshold=0)
    return path


def computed(path, rows=3):
    session = open_session(path, 1)
    width = session.get_inputs()[0].shape[1]
    x = np.random.default_rng(5).standard_normal((rows, width), np.float32)
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_matrix_in_parts_computes_the_same_bit_for_bit(tmp_path, monkeypatch, outside, bits, zeros, bias):
    monkeypatch.setattr(splitting, "BIG", 10_000)
    monkeypatch.setattr(splitting, "PART", 4_000)
    path = matrices(tmp_path / "m.onnx", [96, 300, 64], bits=bits, zeros=zeros, bias=bias, outside=outside)
    whole = onnx.load(path, load_external_data=False)
    (tmp_path / "parts.onnx").write_bytes(splitting.split_file(path))
    parts = onnx.load(tmp_path / "parts.onnx", load_external_data=False)
    assert sum(node.op_type == "Concat" for node in parts.graph.node) >= 1
    assert sum(node.op_type == "MatMulNBits" for node in parts.graph.node) > len(whole.graph.node)
    onnx.checker.check_model(onnx.load(tmp_path / "parts.onnx"))
    for rows in (1, 3):
        assert np.array_equal(computed(path, rows), computed(tmp_path / "parts.onnx", rows))


def test_what_is_small_or_not_understood_stays_whole(tmp_path, monkeypatch):
    assert splitting.split_file(matrices(tmp_path / "small.onnx", [96, 300])) is None
    monkeypatch.setattr(splitting, "BIG", 10_000)
    monkeypatch.setattr(splitting, "PART", 4_000)
    model = onnx.load(matrices(tmp_path / "m.onnx", [96, 300]), load_external_data=False)
    for change in (
        lambda node, _: setattr(node, "op_type", "Other"),
        lambda node, _: node.input.extend(["", "", "more"]),
        lambda node, _: node.input.__setitem__(1, "computed"),
        lambda _, tensors: setattr(tensors[0], "data_type", TensorProto.INT32),
        lambda _, tensors: tensors[1].dims.__setitem__(0, 7),
        lambda _, tensors: tensors[1].ClearField("data_location"),
    ):
        other = onnx.ModelProto()
        other.CopyFrom(model)
        change(other.graph.node[0], other.graph.initializer)
        assert splitting.split(other) == 0
        assert len(other.graph.node) == 1
    monkeypatch.setattr(splitting, "_LARGEST", 10)
    assert splitting.split_file(tmp_path / "m.onnx") is None


def test_a_weight_that_others_use_too_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(splitting, "BIG", 10_000)
    model = onnx.load(matrices(tmp_path / "m.onnx", [96, 300]), load_external_data=False)
    model.graph.node.append(helper.make_node("Shape", ["b0"], ["shape"]))
    assert splitting.split(model) == 1
    assert "b0" in {tensor.name for tensor in model.graph.initializer}
    assert "s0" not in {tensor.name for tensor in model.graph.initializer}


ODD = [96, 35, 131, 67, 33]
"""Widths whose matrices take a number of bytes that is no multiple of 64."""


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_copy_lies_as_its_kernels_read_it_whatever_the_widths(tmp_path, monkeypatch, bits, zeros):
    monkeypatch.setattr(aligning, "INLINE", 200)
    path = matrices(tmp_path / "m.onnx", ODD, bits=bits, zeros=zeros)
    (tmp_path / "out").mkdir()
    copy = prepare.prepare(path, tmp_path / "out")
    model = onnx.load(copy, load_external_data=False)
    said = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    starts = [int(part.split(";")[0]) for e in said if e.key.startswith("prepacked") for part in e.value.split("|")[1:]]
    assert starts
    assert [start for start in starts if start % aligning.ALIGNMENT] == []
    for rows in (1, 3):
        assert np.array_equal(computed(path, rows), computed(copy, rows))


def test_small_tensors_are_kept_in_the_graph(tmp_path):
    path = matrices(tmp_path / "m.onnx", [256, 512])
    (tmp_path / "out").mkdir()
    graph = onnx.load(prepare.prepare(path, tmp_path / "out"), load_external_data=False).graph
    where = {tensor.name: tensor.data_location == TensorProto.EXTERNAL for tensor in graph.initializer}
    assert where == {"b0": True, "s0": True, "z0": False}


@pytest.mark.parametrize(
    ("key", "value"),
    [("prepacked_0", "op+1|12"), ("prepacked_0", "op+1|0;99999999;0"), ("location", "elsewhere"), ("length", "x")],
)
def test_data_that_is_described_in_another_form_is_refused(tmp_path, key, value):
    path = matrices(tmp_path / "m.onnx", [256, 512])
    model = onnx.load(path, load_external_data=False)
    (tmp_path / "m.onnx.data").write_bytes((tmp_path / "m.onnx.weights").read_bytes())
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "m.onnx.data"
    said = {entry.key: entry for entry in model.graph.initializer[0].external_data}
    if key in said:
        said[key].value = value
    else:
        model.graph.initializer[0].external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OrchError, match="in another form"):
        aligning.align(path)


def test_a_copy_that_computes_something_else_is_noticed_and_not_made(tmp_path, monkeypatch):
    path = matrices(tmp_path / "m.onnx", [256, 512])
    (tmp_path / "good").mkdir()
    copy = prepare.prepare(path, tmp_path / "good")
    assert comparing.alike(path, copy)

    def spoilt(graph, align=aligning.align):
        align(graph)
        model = onnx.load(graph, load_external_data=False)
        said = {entry.key: entry.value for entry in model.graph.initializer[0].external_data}
        start, size = map(int, said["prepacked_0"].split("|")[1].split(";")[:2])
        with graph.with_name(graph.name + ".data").open("r+b") as data:
            data.seek(start + size // 2)
            data.write(b"\x77" * 64)

    monkeypatch.setattr(aligning, "align", spoilt)
    (tmp_path / "bad").mkdir()
    with pytest.raises(OrchError, match="computed something else") as refused:
        prepare.prepare(path, tmp_path / "bad")
    assert onnxruntime.__version__ in refused.value.hint


def test_what_cannot_be_compared_is_taken_as_it_is(tmp_path):
    random = helper.make_node("RandomNormal", [], ["y"], shape=[4])
    text = helper.make_node("Identity", ["x"], ["y"])
    for name, node, inputs, kind in (
        ("random", random, [], TensorProto.FLOAT),
        ("text", text, [helper.make_tensor_value_info("x", TensorProto.STRING, [1])], TensorProto.STRING),
    ):
        output = [helper.make_tensor_value_info("y", kind, None)]
        graph = helper.make_graph([node], name, inputs, output)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = tmp_path / f"{name}.onnx"
        onnx.save_model(model, str(path))
        assert comparing.alike(path, path)


def branches(path):
    """A model that takes one of two matrices, each in a branch of its own, and for no number of rows but 7."""
    random = np.random.default_rng(8)

    def branch(name):
        weight = numpy_helper.from_array(random.standard_normal((64, 64), np.float32), f"w-{name}")
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, [7, 64])
        return helper.make_graph(
            [helper.make_node("MatMul", ["seven", weight.name], [name])], name, [], [output], [weight]
        )

    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["seven"]),
        helper.make_node("If", ["which"], ["y"], then_branch=branch("one"), else_branch=branch("other")),
    ]
    graph = helper.make_graph(
        nodes,
        "branches",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64]),
            helper.make_tensor_value_info("which", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [7, 64])],
        [numpy_helper.from_array(np.array([7, 64], np.int64), "shape")],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_weights_in_the_branches_of_a_condition_are_found_again(tmp_path):
    path = branches(tmp_path / "m.onnx")
    (tmp_path / "out").mkdir()
    copy = prepare.prepare(path, tmp_path / "out")
    assert copy.with_name(copy.name + ".data").stat().st_size >= 2 * 64 * 64 * 4
    x = np.random.default_rng(9).standard_normal((7, 64), np.float32)
    for which in (True, False):
        feed = {"x": x, "which": np.array(which)}
        whole, made = (open_session(each, 1).run(None, feed)[0] for each in (path, copy))
        assert np.array_equal(whole, made)


def test_of_a_model_that_cannot_be_run_with_what_is_made_up_the_copy_must_open(tmp_path, monkeypatch):
    path = branches(tmp_path / "m.onnx")

    def emptied(graph, align=aligning.align):
        align(graph)
        graph.with_name(graph.name + ".data").write_bytes(b"")

    monkeypatch.setattr(aligning, "align", emptied)
    (tmp_path / "out").mkdir()
    with pytest.raises(OrchError, match="computed something else"):
        prepare.prepare(path, tmp_path / "out")


@pytest.mark.parametrize("name", MODELS)
def test_models_that_packages_ship_compute_the_same_from_their_copies(tmp_path, name):
    path = model_file(name, tmp_path)
    (tmp_path / "out").mkdir()
    copy = prepare.prepare(path, tmp_path / "out")
    whole, made = (open_session(each, 1).run(None, INPUTS[name]) for each in (path, copy))
    assert all(np.array_equal(one, other) for one, other in zip(whole, made, strict=True))
