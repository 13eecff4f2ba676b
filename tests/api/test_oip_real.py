"""Real ONNX models through ``/v2``: what comes back is what a session of one's own returns, bit for bit."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes.onnx import FAILURES, OnnxRuntime
from neuroshell_orch.runtimes.onnxheader import read_file
from neuroshell_orch.runtimes.tensors import NUMPY_TYPES, ORT_TYPES, from_numpy
from neuroshell_orch.workers.protocol import Load
from tests.api.support_oip import exchange, infer_binary
from tests.api.support_real import INPUTS, MODELS, model_file

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
CASES = sorted(path.parent for path in DATA.glob("*/*/model.onnx"))
NAMES = {dtype: name for name, dtype in NUMPY_TYPES.items() if name != "BF16"}


def direct(path, feed):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


def as_json(array, datatype):
    if datatype not in {"FP16", "FP32", "FP64"}:
        return array.ravel().tolist()
    words = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
    return [words.get(str(item), item) for item in array.ravel().tolist()]


def through_the_daemon(manager, name, feed):
    """The outputs that came in binary form and those that came as JSON, each as bytes by name."""
    heads, raw, plain = [], b"", []
    for key, array in feed.items():
        tensor = from_numpy(key, NAMES[array.dtype], array)
        head = {"name": key, "shape": list(array.shape), "datatype": tensor.datatype}
        heads.append({**head, "parameters": {"binary_data_size": len(tensor.data)}})
        plain.append({**head, "data": as_json(array, tensor.datatype)})
        raw += tensor.data
    request = {"inputs": heads, "parameters": {"binary_data_output": True}}
    status, answer, behind = infer_binary(manager, name, request, raw)
    assert status == 200, answer
    binary, at = {}, 0
    for output in answer["outputs"]:
        size = output["parameters"]["binary_data_size"]
        binary[output["name"]] = (output["datatype"], output["shape"], behind[at : at + size])
        at += size
    assert at == len(behind)
    status, _headers, body = exchange(manager, "POST", f"/v2/models/{name}/infer", json.dumps({"inputs": plain}))
    assert status == 200, body
    as_text = {}
    for output in json.loads(body, parse_constant=pytest.fail)["outputs"]:
        kind = output["datatype"]
        if kind == "BYTES":
            items = [text.encode() for text in output["data"]]
            data = b"".join(struct.pack("<I", len(item)) + item for item in items)
        else:
            data = np.array(
                [float(v) if isinstance(v, str) else v for v in output["data"]], NUMPY_TYPES[kind]
            ).tobytes()
        as_text[output["name"]] = (kind, output["shape"], data)
    return binary, as_text


def require_equal(manager, name, path, feed):
    wanted = {}
    for key, output in direct(path, feed).items():
        array = np.asarray(output)
        tensor = from_numpy(key, "BYTES" if array.dtype.kind in "OU" else NAMES[array.dtype], array)
        wanted[key] = (tensor.datatype, list(tensor.shape), tensor.data)
    binary, as_text = through_the_daemon(manager, name, feed)
    assert binary == wanted
    assert as_text == wanted


@pytest.mark.parametrize("name", MODELS)
def test_models_that_packages_ship(manager, name):
    path = manager.register(name, model_file(name, manager.root), "onnx")
    manager.start(real=True)
    before = manager.get(f"/v2/models/{name}")
    assert manager.phase(name) == "COLD"
    assert {item["name"] for item in before["inputs"]} == INPUTS[name].keys()
    require_equal(manager, name, path, INPUTS[name])
    after = manager.get(f"/v2/models/{name}")
    assert after["inputs"] == before["inputs"]
    assert [item["name"] for item in after["outputs"]] == [item["name"] for item in before["outputs"]]


def case_inputs(case):
    """The inputs that belong to a case, or None where they are not all tensors."""
    header = read_file(case / "model.onnx")
    if any(value.datatype not in NUMPY_TYPES for value in (*header.inputs, *header.outputs)):
        return None
    feed = {}
    for number, value in enumerate(header.inputs):
        file = case / "test_data_set_0" / f"input_{number}.pb"
        if not file.exists():
            break
        feed[value.name] = numpy_helper.to_array(onnx.load_tensor(str(file)))
    return feed


def runs_here(case, feed):
    try:
        direct(case / "model.onnx", feed)
    except FAILURES:  # what onnxruntime itself does not run is not about us
        return False
    return True


@pytest.mark.parametrize("group", ["simple", "pytorch-converted", "pytorch-operator"])
def test_the_models_of_onnx_itself(manager, group, tmp_path):
    cases = [case for case in CASES if case.parent.name == group][:: 1 if group == "simple" else 8]
    cases = [(case, feed) for case in cases if (feed := case_inputs(case)) is not None and runs_here(case, feed)]
    assert len(cases) >= 4
    for number, (case, _feed) in enumerate(cases):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes((case / "model.onnx").read_bytes())
        manager.register(f"m{number}", path, "onnx")
    manager.start(real=True)
    for number, (case, feed) in enumerate(cases):
        require_equal(manager, f"m{number}", case / "model.onnx", feed)
        manager.post(f"/v2/repository/models/m{number}/unload", {})


@pytest.mark.parametrize("group", sorted({case.parent.name for case in CASES}))
def test_what_the_head_of_a_file_says_is_what_the_session_says(group, tmp_path):
    seen = 0
    for case in (case for case in CASES if case.parent.name == group):
        path = tmp_path / f"{case.name}.onnx"
        path.write_bytes((case / "model.onnx").read_bytes())
        header = read_file(path)
        try:
            loaded = OnnxRuntime().load(Load("m", "onnx", str(path), threads=1))
        except OrchError as error:
            assert error.problem in {"model-invalid", "unsupported"}  # noqa: PT017
            continue
        seen += 1
        inputs = [(value.name, value.datatype, value.shape or []) for value in header.inputs]
        assert inputs == [
            (i.name, i.datatype, i.shape if value.shape else [])
            for i, value in zip(loaded.inputs, header.inputs, strict=True)
        ], case.name
        assert [(v.name, v.datatype) for v in header.outputs] == [(o.name, o.datatype) for o in loaded.outputs]
    assert seen or group == "real"


def test_every_datatype_name_of_the_session_is_one_of_the_head():
    assert set(ORT_TYPES.values()) == set(NUMPY_TYPES)
    assert all(re.fullmatch("[A-Z]+[0-9]*", name) for name in NUMPY_TYPES)
