"""The floor of a round trip through two processes: the bare server, and a worker that it hands each body to.

``bare_hop.py SOCKET MODEL``. The worker decodes, runs the model and encodes; nothing is checked, nobody is queued,
nothing can be cancelled, and there is one model. No service whose workers are processes of their own can be faster
with this server and this runtime.
"""

import asyncio
import os
import socket
import sys

import msgspec

HEADERS = [(b"content-type", b"application/json")]


def work(channel, model):
    """The worker: bodies in, replies out."""
    import numpy as np  # noqa: PLC0415 - each process imports what it needs
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    decode, encode = msgspec.json.decode, msgspec.json.encode
    channel.sendall(b"ready")
    while body := channel.recv(65536):
        given = decode(body)["inputs"][0]
        (found,) = session.run(None, {"x": np.array(given["data"], np.float32)})
        output = {"name": "y", "shape": list(found.shape), "datatype": "FP32", "data": found.tolist()}
        channel.sendall(encode({"model_name": "tiny", "outputs": [output]}))


def serve(path, channel):
    """The server, with one request at a time."""
    import uvicorn  # noqa: PLC0415

    waiting = []

    async def app(scope, receive, send):
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        loop = asyncio.get_running_loop()
        if not waiting:
            loop.add_reader(channel, lambda: waiting[0].set_result(channel.recv(65536)))
            waiting.append(None)
        waiting[0] = loop.create_future()
        channel.send(body)
        reply = await waiting[0]
        length = (b"content-length", str(len(reply)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, length]})
        await send({"type": "http.response.body", "body": reply})

    uvicorn.run(app, uds=path, http="httptools", loop="asyncio", lifespan="off", log_config=None, access_log=False)


if __name__ == "__main__":
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        work(theirs, sys.argv[2])
    else:
        theirs.close()
        ours.recv(5)
        ours.setblocking(False)
        serve(sys.argv[1], ours)
