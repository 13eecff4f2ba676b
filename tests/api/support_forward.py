"""From a TCP port of one's own to a unix socket, for clients that know no other way: what ``socat`` does."""

from __future__ import annotations

import asyncio
import contextlib
import threading


@contextlib.contextmanager
def passed_on(path):
    """The number of a port whose connections end at the unix socket ``path``."""
    loop, tasks = asyncio.new_event_loop(), set()

    async def serve(reader, writer):
        task = asyncio.current_task()
        tasks.add(task)
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(str(path))
            try:
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
            finally:
                await _close(far_writer)
        finally:
            await _close(writer)
            tasks.discard(task)

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def end():
        server.close()
        for task in tasks.copy():
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _copy(reader, writer):
    """One direction, to its end, which the other side is told by the end of the whole connection."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _close(writer):
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
