"""How one answer is shown: a chat's choice and a raw completion's, in pieces and whole.

Owns the shapes of choices, deltas and logprobs. A voice is fed what a worker says about one answer and gives the parts
of the choice that a stream shows; ``whole`` is the choice that is shown at once. Must not know requests or streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from neuroshell_orch.api.openai_tools import CallReader
    from neuroshell_orch.workers.protocol import Done, Piece, TokenScore

Shown: TypeAlias = dict[str, Any]


class Voice(Protocol):
    """One answer of a request."""

    def start(self) -> list[Shown]:
        """What a stream shows before the first piece."""

    def feed(self, piece: Piece) -> list[Shown]:
        """What it shows for ``piece``."""

    def end(self, done: Done) -> list[Shown]:
        """What it shows at the end. Raises OrchError where the answer is not what was promised."""

    def whole(self) -> Shown:
        """The choice after its end."""


class ChatVoice:
    """A choice of a chat. ``calls`` reads tool calls out of the text; ``is_json``: the answer was held to a schema."""

    def __init__(self, calls: CallReader | None = None, *, is_json: bool = False) -> None:
        self._reader = calls
        self._is_json = is_json
        self._text: list[str] = []
        self._calls: list[Shown] = []
        self._scores: list[Shown] = []
        self._scored = False
        self._reason = ""

    def start(self) -> list[Shown]:
        """The role."""
        return [_chunk({"role": "assistant", "content": ""})]

    def feed(self, piece: Piece) -> list[Shown]:
        """Text and calls as they become certain."""
        if self._reader is None and not piece.scores:
            self._text.append(piece.text)
            return [_chunk({"content": piece.text})]
        found = [piece.text] if self._reader is None else self._reader.feed(piece.text)
        parts = [_chunk(self._delta(item)) for item in found]
        if piece.scores:
            self._scored = True
            scores = [_score(score) for score in piece.scores]
            self._scores += scores
            parts = parts or [_chunk({})]
            parts[0]["logprobs"] = {"content": scores, "refusal": None}
        return parts

    def _delta(self, item: str | Shown) -> Shown:
        if isinstance(item, str):
            self._text.append(item)
            return {"content": item}
        self._calls.append({key: value for key, value in item.items() if key != "index"})
        return {"tool_calls": [item]}

    def end(self, done: Done) -> list[Shown]:
        """What was held back, and why it ended."""
        parts = [_chunk(self._delta(item)) for item in self._reader.flush()] if self._reader is not None else []
        self._reason = "tool_calls" if self._calls and done.reason == "stop" else done.reason
        if self._is_json and self._reason == "stop":
            _check("".join(self._text))
        return [*parts, _chunk({}, self._reason)]

    def whole(self) -> Shown:
        """The message."""
        text = "".join(self._text)
        message: Shown = {"role": "assistant", "content": text if text or not self._calls else None}
        if self._calls:
            message["tool_calls"] = self._calls
        scores = {"content": self._scores, "refusal": None} if self._scored else None
        return {"message": message, "logprobs": scores, "finish_reason": self._reason}


class TextVoice:
    """A choice of a raw completion, behind ``echo``."""

    def __init__(self, echo: str = "") -> None:
        self._echo = echo
        self._text: list[str] = [echo]
        self._scores: list[TokenScore] = []
        self._length = len(echo)
        self._reason = ""

    def start(self) -> list[Shown]:
        """The prompt, where it is wanted back."""
        return [_text(self._echo)] if self._echo else []

    def feed(self, piece: Piece) -> list[Shown]:
        """The text."""
        self._text.append(piece.text)
        scores = _legacy(piece.scores, self._length) if piece.scores else None
        self._scores += piece.scores
        self._length += len(piece.text)
        return [_text(piece.text, scores)]

    def end(self, done: Done) -> list[Shown]:
        """Why it ended."""
        self._reason = done.reason
        return [_text("", None, done.reason)]

    def whole(self) -> Shown:
        """All of it."""
        return _text(
            "".join(self._text), _legacy(self._scores, len(self._echo)) if self._scores else None, self._reason
        )


def _chunk(delta: Shown, reason: str | None = None) -> Shown:
    return {"delta": delta, "logprobs": None, "finish_reason": reason}


def _text(text: str, scores: Shown | None = None, reason: str | None = None) -> Shown:
    return {"text": text, "logprobs": scores, "finish_reason": reason}


def _token(text: str, logprob: float) -> Shown:
    # A token may be a part of a character; which bytes it has is not told then.
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}


def _score(score: TokenScore) -> Shown:
    return {**_token(score.text, score.logprob), "top_logprobs": [_token(text, p) for text, p in score.likeliest]}


def _legacy(scores: list[TokenScore], offset: int) -> Shown:
    """Lists side by side, as completions have them. A token that is no whole character counts as nothing."""
    offsets = []
    for score in scores:
        offsets.append(offset)
        offset += len(score.text.replace("\ufffd", ""))
    return {
        "tokens": [score.text for score in scores],
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": [dict(score.likeliest) for score in scores],
        "text_offset": offsets,
    }


def _check(text: str) -> None:
    """The grammar has seen to it; a runtime that lost its grammar must not be believed."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise OrchError("answer-failed", "The answer is not the JSON that was asked for.", "Ask again.") from None
