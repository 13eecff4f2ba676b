"""The peer of a round trip: uvicorn with httptools, which reads a request and sends a reply. Argument: SOCKET."""

import sys

import uvicorn

REPLY = (
    b'{"model_name":"tiny","id":"","outputs":[{"name":"y","shape":[8],"datatype":"FP32",'
    b'"data":[0.0,1.0,2.0,3.0,4.0,5.0,6.0,7.0]}]}'
)
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(REPLY)).encode())]


async def app(scope, receive, send):
    """Any request is answered alike."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": REPLY})


if __name__ == "__main__":
    uvicorn.run(
        app, uds=sys.argv[1], http="httptools", loop="asyncio", lifespan="off", log_config=None, access_log=False
    )
