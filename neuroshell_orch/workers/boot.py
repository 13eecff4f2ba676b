"""The first moments of a worker: what can be begun before its own modules are imported.

Owns a look at the frames that wait on descriptor 0 already, without taking them: where one of them is a Load of a
language model, its native part is begun (``runtimes.genai_early``) while this process imports the rest of itself. A
guess that cannot be wrong, only fail: the Load is carried out as always, and finds the work begun. Must decode no more
than it needs; everything else is ``child``'s.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any, Final

from neuroshell_orch import marks

_PEEKED: Final = 1 << 14
_RUNTIME: Final = "genai"


def main() -> None:
    """Begin what can be begun, then run as ever."""
    marks.executed()
    begin()
    from neuroshell_orch.workers import child  # noqa: PLC0415 - this is what is not waited for

    child.main()


def begin() -> None:
    """Import the runtime that was announced, and begin the load that was ordered. Never raises for what it reads."""
    if "NSORCH_RUNTIMES" in os.environ:
        return
    if not _for_a_load(peeked(0)):
        return
    with suppress(ImportError):  # the load says so
        import onnxruntime_genai  # noqa: F401, PLC0415

        frames = peeked(0)
        if _for_a_load(frames) and frames[-1].get("t") == "load":
            from neuroshell_orch.runtimes import genai_early  # noqa: PLC0415

            genai_early.begin(frames[-1])


def _for_a_load(frames: list[dict[str, Any]]) -> bool:
    """Whether this worker will load a language model before anything else."""
    kinds = [frame.get("t") for frame in frames]
    return kinds in (["announce"], ["load"], ["announce", "load"]) and frames[-1].get("runtime") == _RUNTIME


def peeked(descriptor: int) -> list[dict[str, Any]]:
    """The frames that wait, as far as they are there and are understood."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            data = sock.recv(_PEEKED, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return []
    found = []
    while len(data) >= 4 and len(data) - 4 >= (size := int.from_bytes(data[:4], "little")):
        try:
            value, _end = _value(data, 4)
        except (IndexError, ValueError):
            break
        if isinstance(value, dict):
            found.append(value)
        data = data[4 + size :]
    return found


def _value(data: bytes, at: int) -> tuple[Any, int]:
    """One value of msgpack's: maps, texts, small numbers and truth, which is all that a Load has. Raises ValueError."""
    kind = data[at]
    at += 1
    if kind < 0x80:
        return kind, at
    if kind < 0x90:
        found = {}
        for _ in range(kind & 0x0F):
            key, at = _value(data, at)
            found[key], at = _value(data, at)
        return found, at
    size = {0xD9: 1, 0xDA: 2}.get(kind, 0)
    if 0xA0 <= kind < 0xC0 or size:
        length = int.from_bytes(data[at : at + size], "big") if size else kind & 0x1F
        at += size
        if at + length > len(data):
            raise ValueError(kind)
        return data[at : at + length].decode(), at + length
    width = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.get(kind)
    if width is not None:
        return int.from_bytes(data[at : at + width], "big"), at + width
    if kind in (0xC2, 0xC3):
        return kind == 0xC3, at
    raise ValueError(kind)


if __name__ == "__main__":
    main()
