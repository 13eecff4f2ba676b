"""Responses leave in single writes: the head with its body where that is there, and alone a moment later where not."""

from __future__ import annotations

import asyncio

import pytest

from neuroshell_orch.api.connection import _JOINED, _Together

pytestmark = pytest.mark.anyio
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Transport:
    def __init__(self):
        self.written = []

    def write(self, data):
        self.written.append(bytes(data))

    def close(self):
        self.written.append(None)


@pytest.fixture
async def ends():
    transport = Transport()
    return _Together(transport, asyncio.get_running_loop()), transport.written


async def test_a_head_and_its_body_are_one_write(ends):
    together, written = ends
    together.write(HEAD)
    together.write(b"body")
    together.write(b"more")
    assert written == [HEAD + b"body", b"more"]
    await asyncio.sleep(0)
    assert len(written) == 2


async def test_a_large_body_is_not_copied_for_it(ends):
    together, written = ends
    together.write(HEAD)
    together.write(memoryview(bytes(_JOINED + 1)))
    assert written == [HEAD, bytes(_JOINED + 1)]


async def test_a_head_without_a_body_leaves_in_the_next_turn(ends):
    together, written = ends
    together.write(HEAD)
    assert written == []
    await asyncio.sleep(0)
    assert written == [HEAD]


async def test_nothing_is_lost_by_closing(ends):
    together, written = ends
    together.write(HEAD)
    together.close()
    assert written == [HEAD, None]
    await asyncio.sleep(0)
    assert len(written) == 2


async def test_a_body_that_looks_like_a_head_arrives(ends):
    together, written = ends
    for part in (HEAD, HEAD, HEAD):
        together.write(part)
    await asyncio.sleep(0)
    assert b"".join(written) == HEAD * 3
