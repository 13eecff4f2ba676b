"""What a request will ask for, from its first bytes: enough to begin before there is anybody who could read it.

Owns a guess, nothing more: it never refuses, and what it misses is answered as always. Must not know who uses it, and
never keeps what it saw.
"""

from __future__ import annotations

HEADER = b"x-nsorch-model"
"""What our own command line says of its ask in the head: the model's name, or nothing for the default one."""

_CONTENT = {
    b"/v1/chat/completions": "messages",
    b"/v1/completions": "prompt",
    b"/v1/embeddings": "input",
    b"/api/chat": "messages",
    b"/api/generate": "prompt",
    b"/api/embed": "input",
    b"/api/embeddings": "prompt",
}
"""The paths that need a loaded model, and the field that an ask has there."""
_TENSORS = (b"/v2/models/", b"/infer")


def asked(data: bytes) -> str | None:
    """The model that an ask in ``data`` names, empty for the default one; None where there is no ask (yet)."""
    head, end, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or words[0] != b"POST" or not words[2].startswith(b"HTTP/1."):
        return None
    path = words[1].partition(b"?")[0]
    if path.startswith(_TENSORS[0]) and path.endswith(_TENSORS[1]):
        return path.split(b"/")[3].decode("utf-8", "replace")
    if path not in _CONTENT:
        return None
    for line in lines if end else lines[:-1]:  # the last line of a head that has no end may be cut off
        name, _, value = line.partition(b":")
        if name.lower() == HEADER:
            return value.strip().decode("utf-8", "replace")
    return _named(body, _CONTENT[path]) if body else None


def _named(body: bytes, content: str) -> str | None:
    from json import loads  # noqa: PLC0415 - most daemons are started by somebody who sends the header

    try:
        wanted = loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(wanted, dict) or not wanted.get(content):
        return None  # as when a model is only loaded or unloaded
    model = wanted.get("model") or ""
    return model.removesuffix(":latest") if isinstance(model, str) else None
