"""Many streaming clients in one process: plain HTTP by hand, since what is measured is the other side."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from dataclasses import dataclass

PATIENCE = 40.0
"""Seconds after which a crowd counts as stuck."""


@dataclass
class Outcome:
    """What became of one client. Times are seconds after it connected."""

    status: int = 0
    text: str = ""
    problem: str = ""
    retry_after: str = ""
    done: bool = False
    first: float = 0.0
    last: float = 0.0
    gap: float = 0.0
    """The longest time between two pieces."""


async def lines(reader):
    """The lines of a body in chunks, whose borders lie anywhere."""
    held = b""
    while size := int(await reader.readline(), 16):
        *whole, held = (held + await reader.readexactly(size)).split(b"\n")
        await reader.readexactly(2)
        for line in whole:
            yield line
    await reader.readline()


async def client(path, body, read=True) -> Outcome:
    """One stream, read to its end; without ``read`` it is asked for and left lying until cancelled."""
    found = Outcome()
    content = json.dumps({**body, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    began = time.perf_counter()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(str(path))  # blocking: where the backlog is full, asyncio takes a refusal for a beginning
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=1 << 20)
    try:
        writer.write(head.encode() + content)
        if not read:
            writer.transport.pause_reading()
            await asyncio.Event().wait()
        found.status = int((await reader.readline()).split()[1])
        while (line := (await reader.readline()).strip()) != b"":
            name, _, value = line.partition(b": ")
            if name == b"retry-after":
                found.retry_after = value.decode()
        pieces, last = [], 0.0
        if found.status != 200:
            found.problem = json.loads(await reader.read())["error"]["code"]
            return found
        async for line in lines(reader):
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    found.problem = event["error"]["code"]
                    return found
                text = event["choices"][0]["delta"].get("content") if event["choices"] else None
                if text:
                    now = time.perf_counter() - began
                    found.first = found.first or now
                    found.gap = max(found.gap, now - (last or now))
                    last = found.last = now
                    pieces.append(text)
            elif line.startswith(b"data: [DONE]"):
                found.done = True
        found.text = "".join(pieces)
        return found
    finally:
        writer.close()


async def crowd(path, bodies, silent=0) -> list[Outcome]:
    """All at once; ``silent`` more clients, who come first, ask for the first body and read nothing."""
    lying = [asyncio.ensure_future(client(path, bodies[0], read=False)) for _ in range(silent)]
    try:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.gather(*(client(path, body) for body in bodies))
    finally:
        for one in lying:
            one.cancel()
        await asyncio.gather(*lying, return_exceptions=True)
