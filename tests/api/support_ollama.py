"""For tests of ``/api``: the ``ollama`` package on the daemon's socket, requests without it, and refusals."""

from __future__ import annotations

import json

import httpx
import ollama
import pytest

from tests.api.support_oip import exchange

ABC = [{"role": "user", "content": "alpha beta gamma"}]


def connected(path, timeout=30):
    transport = httpx.HTTPTransport(uds=str(path))
    return ollama.Client(host="http://localhost", transport=transport, timeout=timeout)


def raw(manager, method, path, body=None):
    status, headers, text = exchange(manager, method, path, b"" if body is None else json.dumps(body).encode())
    return status, headers, text


def refused(call, *arguments, **fields):
    with pytest.raises(ollama.ResponseError) as caught:
        call(*arguments, **fields)
    return caught.value.status_code, caught.value.error
