"""The onnx runtime: every data type, shapes, refusals, cancelling, hibernation."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes import onnx as onnx_runtime
from neuroshell_orch.runtimes.onnx import OnnxRuntime
from neuroshell_orch.runtimes.tensors import from_numpy, to_numpy
from neuroshell_orch.workers.protocol import ChatMessage, Generate, Infer, Load, Tensor, TensorInfo
from tests.support_daemon import wait_until

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}


def value(name, datatype, shape):
    return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], shape)


def save(path, nodes, inputs, outputs, **options):
    graph = helper.make_graph(nodes, "g", inputs, outputs, **options)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def identity(path, datatype, shape):
    node = helper.make_node("Identity", ["x"], ["y"])
    return save(path, [node], [value("x", datatype, shape)], [value("y", datatype, shape)])


def load(path, **options):
    runtime = OnnxRuntime()
    return runtime, runtime.load(Load("m", "onnx", str(path), **options))


def run(runtime, *inputs, outputs=(), cancelled=lambda: False):
    return runtime.infer(Infer(1, list(inputs), list(outputs)), cancelled)


@pytest.mark.parametrize("shape", [[], [0], [3], [2, 2]], ids=str)
@pytest.mark.parametrize("datatype", ONNX_TYPES)
def test_every_type_and_shape_comes_back_unchanged(tmp_path, datatype, shape):
    runtime, loaded = load(identity(tmp_path / "m.onnx", datatype, ["n"] * len(shape)))
    assert loaded.inputs == [TensorInfo("x", datatype, [-1] * len(shape))]
    count = int(np.prod(shape))
    if datatype == "BYTES":
        sent = from_numpy("x", "BYTES", np.array(["", "ä", "🦊 fox", "d"][:count], object).reshape(shape))
    elif datatype == "BOOL":
        sent = Tensor("x", datatype, shape, bytes(i % 2 for i in range(count)))
    else:
        size = np.dtype(
            {"FP16": "f2", "FP32": "f4", "FP64": "f8", "BF16": "u2"}.get(datatype, datatype.lower())
        ).itemsize
        sent = Tensor("x", datatype, shape, bytes(i % 60 + 1 for i in range(count * size)))
    (got,) = run(runtime, sent)
    assert (got.name, got.datatype, got.shape, got.data) == ("y", datatype, shape, sent.data)


def two_outputs(path):
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    return save(
        path,
        nodes,
        [value("a", "FP32", ["n", 2]), value("b", "FP32", [2])],
        [value("sum", "FP32", ["n", 2]), value("difference", "FP32", ["n", 2])],
    )


A = from_numpy("a", "FP32", np.array([[1, 2], [3, 4]], np.float32))
B = from_numpy("b", "FP32", np.array([10, 20], np.float32))


def test_outputs_can_be_chosen(tmp_path):
    runtime, _ = load(two_outputs(tmp_path / "m.onnx"))
    assert [tensor.name for tensor in run(runtime, A, B)] == ["sum", "difference"]
    (got,) = run(runtime, B, A, outputs=["difference"])
    assert to_numpy(got).tolist() == [[-9, -18], [-7, -16]]
    with pytest.raises(OrchError, match=r"no output 'product'.*|.*") as refused:
        run(runtime, A, B, outputs=["product"])
    assert "sum FP32 [-1, 2]" in refused.value.hint


def test_an_input_with_a_default_may_be_left_out(tmp_path):
    path = tmp_path / "m.onnx"
    default = numpy_helper.from_array(np.array([100, 200], np.float32), "b")
    node = helper.make_node("Add", ["a", "b"], ["sum"])
    inputs = [value("a", "FP32", ["n", 2]), value("b", "FP32", [2])]
    save(path, [node], inputs, [value("sum", "FP32", ["n", 2])], initializer=[default])
    runtime, _ = load(path)
    assert to_numpy(run(runtime, A)[0]).tolist() == [[101, 202], [103, 204]]
    assert to_numpy(run(runtime, A, B)[0]).tolist() == [[11, 22], [13, 24]]


def test_refusals_name_the_input(tmp_path):
    runtime, _ = load(two_outputs(tmp_path / "m.onnx"))
    with pytest.raises(OrchError, match="'b' is missing"):
        run(runtime, A)
    with pytest.raises(OrchError, match="'a' has the type FP64"):
        run(runtime, Tensor("a", "FP64", [1, 2], bytes(16)), B)
    assert run(runtime, A, B)


def test_a_failure_inside_the_model_is_an_error_and_the_next_run_works(tmp_path, capfd):
    path = tmp_path / "m.onnx"
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    save(path, [node], [value("x", "FP32", ["n"]), value("shape", "INT64", [1])], [value("y", "FP32", ["m"])])
    runtime, _ = load(path)
    x = from_numpy("x", "FP32", np.ones(4, np.float32))
    with pytest.raises(OrchError) as failed:
        run(runtime, x, from_numpy("shape", "INT64", np.array([3])))
    assert failed.value.problem == "answer-failed"
    assert run(runtime, x, from_numpy("shape", "INT64", np.array([4])))[0].shape == [4]
    said = capfd.readouterr()
    assert said.err + said.out == ""


def endless(path):
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_in"], ["go_out"]), helper.make_node("Sin", ["v_in"], ["v_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_in", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, [1]),
        ],
    )
    constants = [
        numpy_helper.from_array(np.array(1 << 62), "trips"),
        numpy_helper.from_array(np.array(True), "go"),
    ]
    node = helper.make_node("Loop", ["trips", "go", "x"], ["y"], body=body)
    return save(path, [node], [value("x", "FP32", [1])], [value("y", "FP32", [1])], initializer=constants)


@pytest.mark.timeout(30)
def test_a_model_that_never_ends_can_be_cancelled(tmp_path):
    runtime, _ = load(endless(tmp_path / "m.onnx"))
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(OrchError) as cancelled:
        run(runtime, from_numpy("x", "FP32", np.ones(1, np.float32)), cancelled=stop.is_set)
    assert cancelled.value.problem == "cancelled"


def test_who_watches_for_cancels_lies_down_and_gets_up_again(tmp_path, monkeypatch):
    watch = onnx_runtime._Watch()
    monkeypatch.setattr(onnx_runtime, "_WATCH", watch)
    monkeypatch.setattr(onnx_runtime, "_QUIET", 0)
    monkeypatch.setattr(onnx_runtime, "_CANCEL_SECONDS", 0.001)
    runtime, _ = load(endless(tmp_path / "m.onnx"))
    for _ in range(3):
        with pytest.raises(OrchError, match="cancelled"):
            run(runtime, from_numpy("x", "FP32", np.ones(1, np.float32)), cancelled=lambda: True)
        wait_until(lambda: not watch._awake.is_set())


def test_a_model_that_wants_more_memory_than_there_is(tmp_path):
    path = tmp_path / "m.onnx"
    node = helper.make_node("ConstantOfShape", ["shape"], ["y"])
    save(path, [node], [value("shape", "INT64", [2])], [value("y", "FP32", ["a", "b"])])
    runtime, _ = load(path)
    with pytest.raises(OrchError) as failed:
        run(runtime, from_numpy("shape", "INT64", np.array([1 << 31, 1 << 22])))
    assert failed.value.problem == "answer-failed"
    assert run(runtime, from_numpy("shape", "INT64", np.array([1, 1])))[0].shape == [1, 1]


def test_what_is_not_a_tensor_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    output = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["n"])
    save(path, [node], [value("x", "FP32", ["n"])], [output])
    with pytest.raises(OrchError, match=r"output 'y'.*seq\(tensor\(float\)\)") as refused:
        load(path)
    assert refused.value.problem == "unsupported"


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (lambda _: None, "file-missing"),
        (lambda path: path.mkdir(), "model-invalid"),
        (lambda path: path.write_bytes(b"garbage" * 20), "model-invalid"),
        (
            lambda path: save(
                path,
                [helper.make_node("NoSuchOp", ["x"], ["y"], domain="ours")],
                [value("x", "FP32", [1])],
                [value("y", "FP32", [1])],
            ),
            "model-invalid",
        ),
    ],
    ids=["missing", "folder", "garbage", "unknown operator"],
)
def test_files_that_are_no_models(tmp_path, prepare, problem):
    prepare(tmp_path / "m.onnx")
    with pytest.raises(OrchError) as refused:
        load(tmp_path / "m.onnx")
    assert refused.value.problem == problem
    assert refused.value.hint


def test_standby_runs_the_dummy_and_it_cannot_chat():
    runtime = OnnxRuntime()
    assert runtime.standby().startswith("onnxruntime ")
    with pytest.raises(OrchError) as refused:
        runtime.generate(Generate(1, [ChatMessage("user", "x")]), lambda *_: None, lambda: False)
    assert refused.value.problem == "unsupported"


def test_an_input_whose_shape_is_not_declared_takes_any_and_a_scalar_only_scalars(tmp_path):
    runtime, loaded = load(identity(tmp_path / "any.onnx", "FP32", None))
    assert (loaded.inputs, loaded.outputs) == ([TensorInfo("x", "FP32", [-1])], [TensorInfo("y", "FP32", [-1])])
    for shape in ([], [3], [2, 0, 1], [2, 2]):
        (got,) = run(runtime, from_numpy("x", "FP32", np.ones(shape, np.float32)))
        assert got.shape == shape
    runtime, loaded = load(identity(tmp_path / "scalar.onnx", "FP32", []))
    assert loaded.inputs == [TensorInfo("x", "FP32", [])]
    with pytest.raises(OrchError, match=r"has the shape \[3\]"):
        run(runtime, from_numpy("x", "FP32", np.ones(3, np.float32)))


def test_types_that_the_protocol_has_not_are_refused_by_name(tmp_path):
    path = tmp_path / "m.onnx"
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E4M3FN)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT8E4M3FN, ["n"])
    graph = helper.make_graph([node], "g", [value("x", "FP32", ["n"])], [output])
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), str(path))
    with pytest.raises(OrchError, match=r"output 'y'.*float8e4m3fn") as refused:
        load(path)
    assert refused.value.problem == "unsupported"
