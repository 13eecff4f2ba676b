"""What the documentation and the examples of ``tritonclient`` show, run with the client as it is installed.

A program of its own: ``python triton_examples.py sync|aio URL TOKEN``. Prints a line for each example that passed.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial

import numpy as np
import pytest
import tritonclient.http as httpclient
import tritonclient.http.aio as aioclient
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm

MODE, URL, TOKEN = sys.argv[1:4]
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
"""Copied for each call: the client writes into what it is given."""
A = np.arange(16, dtype=np.int32).reshape(1, 16)
B = np.full((1, 16), 1, np.int32)


def tensors(client, binary=(True, False)):
    inputs = [client.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    inputs[0].set_data_from_numpy(A, binary_data=binary[0])
    inputs[1].set_data_from_numpy(B, binary_data=binary[1])
    outputs = [
        client.InferRequestedOutput("OUTPUT0", binary_data=binary[0]),
        client.InferRequestedOutput("OUTPUT1", binary_data=binary[1]),
    ]
    return inputs, outputs


def check(result):
    assert (result.as_numpy("OUTPUT0") == A + B).all()
    assert (result.as_numpy("OUTPUT1") == A - B).all()


def raises(words, function, *arguments, **named):
    with pytest.raises(InferenceServerException) as caught:
        function(*arguments, **named)
    assert words in caught.value.message(), caught.value.message()
    return caught.value


def health_and_metadata(client):
    assert client.is_server_live(headers=dict(HEADERS))
    assert client.is_server_ready(headers=dict(HEADERS))
    assert client.is_model_ready("simple", headers=dict(HEADERS))
    assert client.is_model_ready("simple", "1", headers=dict(HEADERS))
    assert not client.is_model_ready("simple", "2", headers=dict(HEADERS))
    assert client.get_server_metadata(headers=dict(HEADERS))["name"] == "nsorch"
    metadata = client.get_model_metadata("simple", headers=dict(HEADERS))
    assert metadata["name"] == "simple"
    assert metadata["inputs"][0] == {"name": "INPUT0", "datatype": "INT32", "shape": [1, 16]}
    assert [output["name"] for output in metadata["outputs"]] == ["OUTPUT0", "OUTPUT1"]
    assert client.get_model_config("simple", headers=dict(HEADERS))["input"][0]["data_type"] == "TYPE_INT32"
    error = raises("wrong_model_name", client.get_model_metadata, "wrong_model_name", headers=dict(HEADERS))
    assert error.status() == "404"


def infer(client):
    for binary in ((True, True), (True, False), (False, False)):
        inputs, outputs = tensors(httpclient, binary)
        check(client.infer("simple", inputs, outputs=outputs, headers=dict(HEADERS)))
        check(client.infer("simple", inputs, headers=dict(HEADERS)))
    result = client.infer("simple", inputs, request_id="7", model_version="1", headers=dict(HEADERS))
    assert result.get_response()["id"] == "7"
    assert result.get_response()["model_version"] == "1"


def scheduled(client):
    inputs, _ = tensors(httpclient)
    for priority in (1, 2, 9):
        check(client.infer("simple", inputs, priority=priority, timeout=30_000_000, headers=dict(HEADERS)))


def compressed(client):
    inputs, outputs = tensors(httpclient)
    for algorithm in ("gzip", "deflate"):
        named = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
        check(client.infer("simple", inputs, outputs=outputs, headers=dict(HEADERS), **named))


def asynchronously(client):
    inputs, outputs = tensors(httpclient)
    waiting = [client.async_infer("simple", inputs, outputs=outputs, headers=dict(HEADERS)) for _ in range(8)]
    for one in waiting:
        check(one.get_result())


def static_functions(client):
    inputs, outputs = tensors(httpclient)
    body, size = client.generate_request_body(inputs, outputs=outputs)
    response = client._post("v2/models/simple/infer", body, HEADERS | {"Inference-Header-Content-Length": size}, None)
    length = int(response.get("Inference-Header-Content-Length"))
    check(client.parse_response_body(response.read(), header_length=length))


def strings(client):
    words = np.array([["one", "zwei", "дрова", ""]], dtype=np.object_)
    for binary in (True, False):
        tensor = httpclient.InferInput("x", [1, 4], "BYTES")
        tensor.set_data_from_numpy(words, binary_data=binary)
        output = httpclient.InferRequestedOutput("y", binary_data=binary)
        found = client.infer("words", [tensor], outputs=[output], headers=dict(HEADERS)).as_numpy("y")
        texts = [item.decode() if isinstance(item, bytes) else item for item in found.ravel()]
        assert texts == words.ravel().tolist()


def floats(client):
    values = np.array([1.5, -0.0, np.inf, -np.inf, 3.4e38, 1e-45], np.float32)
    for binary in (True, False):
        tensor = httpclient.InferInput("x", [6], "FP32")
        tensor.set_data_from_numpy(values, binary_data=binary)
        output = httpclient.InferRequestedOutput("y", binary_data=binary)
        found = client.infer("floats", [tensor], outputs=[output], headers=dict(HEADERS)).as_numpy("y")
        assert found.tobytes() == values.tobytes(), (binary, found)
    tensor.set_data_from_numpy(np.array([np.nan] * 6, np.float32), binary_data=False)
    assert np.isnan(client.infer("floats", [tensor], headers=dict(HEADERS)).as_numpy("y")).all()


def brain_floats(client):
    values = np.array([1.0, -2.5, 0.0], np.float32)
    tensor = httpclient.InferInput("x", [3], "BF16")
    tensor.set_data_from_numpy((values.view(np.uint32) >> 16).astype(np.uint16).view(np.dtype("bfloat16")))
    found = client.infer("brain", [tensor], headers=dict(HEADERS)).as_numpy("y")
    assert found.astype(np.float32).tolist() == values.tolist()


def shared_memory(client):
    client.unregister_system_shared_memory(headers=dict(HEADERS))
    size = A.nbytes
    into = shm.create_shared_memory_region("input_data", f"/{KEY}_in", size * 2)
    out = shm.create_shared_memory_region("output_data", f"/{KEY}_out", size * 2)
    try:
        shm.set_shared_memory_region(into, [A, B])
        client.register_system_shared_memory("input_data", f"/{KEY}_in", size * 2, headers=dict(HEADERS))
        client.register_system_shared_memory("output_data", f"/{KEY}_out", size * 2, headers=dict(HEADERS))
        inputs = [httpclient.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        inputs[0].set_shared_memory("input_data", size)
        inputs[1].set_shared_memory("input_data", size, offset=size)
        outputs = [httpclient.InferRequestedOutput(name, binary_data=True) for name in ("OUTPUT0", "OUTPUT1")]
        outputs[0].set_shared_memory("output_data", size)
        outputs[1].set_shared_memory("output_data", size, offset=size)
        result = client.infer("simple", inputs, outputs=outputs, headers=dict(HEADERS))
        for number, wanted in enumerate((A + B, A - B)):
            assert result.get_output(f"OUTPUT{number}")["shape"] == [1, 16]
            assert (shm.get_contents_as_numpy(out, np.int32, [1, 16], offset=number * size) == wanted).all()
        status = client.get_system_shared_memory_status(headers=dict(HEADERS))
        assert sorted(region["name"] for region in status) == ["input_data", "output_data"]
        one = client.get_system_shared_memory_status("input_data", headers=dict(HEADERS))
        assert one == [{"name": "input_data", "key": f"/{KEY}_in", "offset": 0, "byte_size": size * 2}]
        client.unregister_system_shared_memory("input_data", headers=dict(HEADERS))
        raises("no shared memory region", client.infer, "simple", inputs, outputs=outputs, headers=dict(HEADERS))
        client.unregister_system_shared_memory(headers=dict(HEADERS))
        assert client.get_system_shared_memory_status(headers=dict(HEADERS)) == []
    finally:
        shm.destroy_shared_memory_region(into)
        shm.destroy_shared_memory_region(out)


def model_control(client):
    assert {entry["name"] for entry in client.get_model_repository_index(headers=dict(HEADERS))} >= {"simple", "words"}
    client.load_model("simple", headers=dict(HEADERS))
    assert client.is_model_ready("simple", headers=dict(HEADERS))
    client.unload_model("simple", headers=dict(HEADERS))
    assert not client.is_model_ready("simple", headers=dict(HEADERS))
    states = {entry["name"]: entry["state"] for entry in client.get_model_repository_index(headers=dict(HEADERS))}
    assert states["simple"] == "UNAVAILABLE"
    raises("failed to load", client.load_model, "wrong_model_name", headers=dict(HEADERS))
    raises("config", client.load_model, "simple", config="{}", headers=dict(HEADERS))
    inputs, _ = tensors(httpclient)
    check(client.infer("simple", inputs, headers=dict(HEADERS)))
    assert client.is_model_ready("simple", headers=dict(HEADERS))


def statistics(client):
    (before,) = client.get_inference_statistics("simple", headers=dict(HEADERS))["model_stats"]
    inputs, _ = tensors(httpclient)
    check(client.infer("simple", inputs, headers=dict(HEADERS)))
    raises(
        "no input",
        client.infer,
        "simple",
        [httpclient.InferInput("x", [0], "FP32").set_data_from_numpy(np.zeros(0, np.float32))],
        headers=dict(HEADERS),
    )
    (after,) = client.get_inference_statistics("simple", headers=dict(HEADERS))["model_stats"]
    assert after["inference_count"] == before["inference_count"] + 1
    assert after["inference_stats"]["fail"]["count"] == before["inference_stats"]["fail"]["count"] + 1
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert len(client.get_inference_statistics(headers=dict(HEADERS))["model_stats"]) >= 4


def refusals(client):
    inputs, _ = tensors(httpclient)
    outputs = [httpclient.InferRequestedOutput("OUTPUT0", class_count=3)]
    raises("classification", client.infer, "simple", inputs, outputs=outputs, headers=dict(HEADERS))
    raises("sequence_id", client.infer, "simple", inputs, sequence_id=3, headers=dict(HEADERS))
    raises("colour", client.infer, "simple", inputs, parameters={"colour": "red"}, headers=dict(HEADERS))
    raises("CUDA", client.get_cuda_shared_memory_status, headers=dict(HEADERS))
    raises("no /v2/logging", client.get_log_settings, headers=dict(HEADERS))


async def aio():
    async with aioclient.InferenceServerClient(url=URL) as client:
        assert await client.is_server_live(headers=dict(HEADERS))
        assert await client.is_model_ready("simple", headers=dict(HEADERS))
        assert (await client.get_model_metadata("simple", headers=dict(HEADERS)))["name"] == "simple"
        for binary in ((True, True), (True, False), (False, False)):
            inputs, outputs = tensors(aioclient, binary)
            check(await client.infer("simple", inputs, outputs=outputs, headers=dict(HEADERS)))
        many = [client.infer("simple", inputs, headers=dict(HEADERS)) for _ in range(8)]
        for result in await asyncio.gather(*many):
            check(result)
        await client.unload_model("simple", headers=dict(HEADERS))
        await client.load_model("simple", headers=dict(HEADERS))
        assert (await client.get_model_repository_index(headers=dict(HEADERS)))[0]["version"] == "1"
        assert (await client.get_inference_statistics("simple", headers=dict(HEADERS)))["model_stats"]
        assert await client.get_system_shared_memory_status(headers=dict(HEADERS)) == []
    sys.stdout.write("aio passed\n")


EXAMPLES = (
    *(
        health_and_metadata,
        infer,
        scheduled,
        compressed,
        asynchronously,
        static_functions,
        strings,
        floats,
        brain_floats,
    ),
    *(shared_memory, model_control, statistics, refusals),
)
KEY = f"nsorch_test_{sys.argv[4]}" if len(sys.argv) > 4 else "nsorch_test"

if __name__ == "__main__":
    if MODE == "aio":
        asyncio.run(aio())
    else:
        with httpclient.InferenceServerClient(url=URL, concurrency=4) as connected:
            for example in EXAMPLES:
                partial(example, connected)()
                sys.stdout.write(f"{example.__name__} passed\n")
