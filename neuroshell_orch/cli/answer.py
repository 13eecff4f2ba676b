"""One streamed answer: the request's body, the text as it arrives, and the figures at its end.

Owns the fields of a chat completion as ``ask`` and ``chat`` use them, and the waiting line that a person sees while
a model loads. Must not know where the text goes.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, Self

from neuroshell_orch.cli.output import span
from neuroshell_orch.marks import mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from neuroshell_orch.client import Client

WAIT_SECONDS: Final = 1.0
TIMELINE: Final = b"timeline "
"""What the comment with the timeline begins with."""


class Answer:
    """What came back. Times in seconds, measured from the sending of the request."""

    def __init__(self) -> None:
        self.model = ""
        self.text = ""
        self.finish_reason: str | None = None
        self.usage: dict[str, int] = {}
        self.timings: dict[str, float] = {}
        self.first_token_seconds: float | None = None
        self.total_seconds = 0.0
        self.timeline: dict[str, dict[str, float]] = {}

    def figures(self) -> str:
        """Tokens, speed and times in one line."""
        tokens, decode = self.usage.get("completion_tokens", 0), self.timings.get("decode_seconds", 0.0)
        parts = [f"{self.usage.get('prompt_tokens', 0)} + {tokens} tokens"]
        if decode and tokens:
            parts.append(f"{tokens / decode:.1f} tok/s")
        if self.first_token_seconds is not None:
            parts.append(f"first token {span(self.first_token_seconds)}")
        if self.timings.get("load_seconds"):
            parts.append(f"load {span(self.timings['load_seconds'])}")
        return f"{self.model}: {', '.join([*parts, f'total {span(self.total_seconds)}'])}"


def request(
    messages: list[dict[str, str]],
    *,
    model: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """The body of a streamed chat completion; what is None is left to the service."""
    body: dict[str, Any] = {"messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    given = {"model": model, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    return body | {name: value for name, value in given.items() if value is not None}


def stream(
    client: Client, body: dict[str, Any], on_text: Callable[[str], None], answer: Answer, *, trace: bool = False
) -> None:
    """Fill ``answer`` and hand each piece of text on as it comes. Leaving early, also by Ctrl-C, cancels the answer."""
    began = time.monotonic()

    def comment(text: bytes) -> None:
        if text.startswith(TIMELINE):
            import json

            answer.timeline = json.loads(text.removeprefix(TIMELINE))

    mark("sent")
    wanted = client.events(
        "/v1/chat/completions",
        body,
        headers={"X-Nsorch-Trace": "1"} if trace else None,
        on_comment=comment if trace else None,
    )
    with Waiting() as waiting, closing(wanted) as events:
        for event in events:
            answer.model = event.get("model") or answer.model
            for choice in event.get("choices") or ():
                text = (choice.get("delta") or {}).get("content")
                if text:
                    if answer.first_token_seconds is None:
                        answer.first_token_seconds = time.monotonic() - began
                        mark("first")
                        waiting.stop()
                    answer.text += text
                    on_text(text)
                answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
            answer.usage = event.get("usage") or answer.usage
            answer.timings = event.get("timings") or answer.timings
            answer.total_seconds = time.monotonic() - began


class Waiting:
    """A line on the terminal after a second of waiting, gone before the first word. Silent where stderr is a file."""

    def __init__(self, what: str = "waiting for the model") -> None:
        self._what = what
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the line away. May be called again."""
        self._over.set()
        if self._thread:
            self._thread.join()
            self._thread = None

    def _show(self) -> None:
        seconds = 0
        while not self._over.wait(WAIT_SECONDS):
            seconds += 1
            sys.stderr.write(f"\r\x1b[K{self._what}… {seconds} s")
            sys.stderr.flush()
        if seconds:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
