"""Tools: what a request may say about them, calls in the history, and calls in what a model writes.

Owns ``tools``, ``tool_choice`` and the reading of calls out of a stream of text. A text that only looks like a call
(an unknown name, arguments that are no object) stays text. Must not know templates or grammars: those are the worker's.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import TYPE_CHECKING, Any, Final

import msgspec

from neuroshell_orch.api.openai_format import MAX_DEPTH, bounded, depth
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import ChatMessage, Tools

if TYPE_CHECKING:
    from collections.abc import Iterable

    from neuroshell_orch.api.openai_request import ChatRequest, Function, Turn

MOST: Final = 8
"""Calls in one answer."""
MAX_TOOLS: Final = 128
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_CHOICES: Final = 'Use "none", "auto", "required" or {"type": "function", "function": {"name": …}}.'
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


# ---- the request ----


def tools_of(wanted: ChatRequest) -> Tools | None:
    """What the worker is told. Raises OrchError."""
    functions = _functions(wanted)
    mode, chosen = _choice(wanted.tool_choice)
    if mode == "none":
        return None
    if not functions:
        if mode == "auto" and not chosen:
            return None
        raise OrchError("bad-request", "tool_choice asks for a tool and tools is empty.", "Send the tools as well.")
    missing = [name for name in chosen if name not in functions]
    if missing:
        raise OrchError("bad-request", f"tool_choice names {missing[0][:64]!r}, which is not in tools.", _CHOICES)
    if chosen:
        functions = {name: functions[name] for name in chosen}
    one = wanted.parallel_tool_calls is False or mode == "one"
    told = [_told(function) for function in functions.values()]
    text = bounded(told, "tools")
    if "\\u0000" in text:
        raise OrchError("bad-request", "tools holds a NUL character.", "Send text.")
    return Tools(
        functions=text,
        required=mode in {"required", "one"},
        most=1 if one else MOST,
        strict=any(function.strict for function in functions.values()),
    )


def _functions(wanted: ChatRequest) -> dict[str, Function]:
    functions: dict[str, Function] = {}
    for index, tool in enumerate(wanted.tools or []):
        where = f"tools[{index}]"
        if tool.type != "function" or tool.function is None:
            raise OrchError("unsupported", f"{where} is not a function.", "Only tools of the type function are known.")
        name = tool.function.name
        if _NAME.fullmatch(name) is None:
            hint = "Use up to 64 letters, digits, _ and -."
            raise OrchError("bad-request", f"{where}.function.name is no name of a function.", hint)
        if name in functions:
            raise OrchError("bad-request", f"{where}.function.name is there twice.", "Name each function once.")
        functions[name] = tool.function
    if len(functions) > MAX_TOOLS:
        raise OrchError("bad-request", f"tools has more than {MAX_TOOLS} functions.", "Send fewer.")
    return functions


def _told(function: Function) -> dict[str, Any]:
    parameters = function.parameters
    if not parameters:
        parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    elif parameters.get("type", "object") != "object":
        where = f"The parameters of the function {function.name}"
        raise OrchError("bad-request", f"{where} are not of the type object.", 'Begin with {"type": "object"}.')
    told = {"name": function.name, "parameters": {"type": "object", **parameters}}
    return told if function.description is None else {**told, "description": function.description}


def _choice(choice: Any) -> tuple[str, list[str]]:  # noqa: ANN401 - JSON
    """(none, auto, required or one, the names that are allowed; none named means all)."""
    match choice:
        case None:
            return "auto", []
        case "none" | "auto" | "required":
            return choice, []
        case {"type": "function", "function": {"name": str(name)}}:
            return "one", [name]
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(allowed)}}:
            return mode, [_allowed(tool) for tool in allowed]
        case _:
            raise OrchError("bad-request", "tool_choice has a form that is not known here.", _CHOICES)


def _allowed(tool: Any) -> str:  # noqa: ANN401 - JSON
    match tool:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
        case _:
            raise OrchError("bad-request", "tool_choice.allowed_tools holds something that is no function.", _CHOICES)


def history(turns: list[Turn], messages: list[ChatMessage]) -> list[ChatMessage]:
    """``messages`` with the calls and results that ``turns`` have. Raises OrchError for a result without a call."""
    made: dict[str, str] = {}
    told: list[ChatMessage] = []
    for index, (turn, plain) in enumerate(zip(turns, messages, strict=True)):
        message = plain
        if turn.tool_calls and turn.role == "assistant":
            calls = [
                {"name": call.function.name, "arguments": _arguments(call.function.arguments), "id": call.id}
                for call in turn.tool_calls
            ]
            made |= {call.id: call.function.name for call in turn.tool_calls}
            message = msgspec.structs.replace(message, tool_calls=json.dumps(calls))
            if "\\u0000" in message.tool_calls:
                raise OrchError("bad-request", f"messages[{index}].tool_calls holds a NUL character.", "Send text.")
        elif turn.role == "tool":
            name = made.get(turn.tool_call_id or "")
            if name is None:
                hint = "A result follows the assistant's message with tool_calls and repeats the id of the call."
                raise OrchError("bad-request", f"messages[{index}].tool_call_id answers no call before it.", hint)
            message = msgspec.structs.replace(message, tool_call_id=turn.tool_call_id or "", name=name)
        told.append(message)
    return told


def _arguments(text: str) -> object:
    """Arguments as templates expect them, an object; what is no JSON stays the text that some model wrote."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    return value if depth(value) <= MAX_DEPTH else text


# ---- the answer ----


class CallReader:
    """Takes an answer as it comes; gives back text that is text, and calls that are whole."""

    def __init__(self, tools: Tools) -> None:
        self._names = {function["name"] for function in json.loads(tools.functions)}
        self._held = ""
        self._begun = False
        self._space = ""
        """White space that is told if text follows, and forgotten if a call does."""
        self._in_text = False
        self.count = 0

    def feed(self, text: str) -> list[str | dict[str, Any]]:
        """What is certain by now."""
        self._held += text
        out: list[str | dict[str, Any]] = []
        while self._held:
            if not self._begun and self._may_be_bare():
                break
            at = self._held.find(_OPEN)
            if at < 0:
                keep = _beginning(self._held)
                self._show(self._held[: len(self._held) - keep], out)
                self._held = self._held[len(self._held) - keep :]
                break
            end = self._held.find(_CLOSE, at)
            if end < 0:
                self._show(self._held[:at], out)
                self._held = self._held[at:]
                break
            self._show(self._held[:at], out)
            whole = self._held[at : end + len(_CLOSE)]
            self._held = self._held[end + len(_CLOSE) :]
            self._take(whole[len(_OPEN) : -len(_CLOSE)], whole, out)
        return out

    def flush(self) -> list[str | dict[str, Any]]:
        """The answer has ended: what was held back is a call without its end, or text."""
        out: list[str | dict[str, Any]] = []
        held, self._held = self._held, ""
        if held:
            self._take(held.strip().removeprefix(_OPEN), held, out)
        return out

    def _may_be_bare(self) -> bool:
        """Whether the whole answer may yet be a call without tags."""
        start = self._held.lstrip()
        return not start or start[0] in "{["

    def _show(self, text: str, out: list[str | dict[str, Any]]) -> None:
        # White space around calls is nobody's; within text it is the model's.
        if not self._in_text and not text.strip():
            self._space += text
        elif text:
            out.append(self._space + text)
            self._begun, self._in_text, self._space = True, True, ""

    def _take(self, text: str, whole: str, out: list[str | dict[str, Any]]) -> None:
        calls = self._parse(text)
        if calls is None:
            self._show(whole, out)
            return
        self._begun, self._in_text, self._space = True, False, ""
        for call in calls:
            out.append(
                {"index": self.count, "id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": call}
            )
            self.count += 1

    def _parse(self, text: str) -> list[dict[str, str]] | None:
        """The calls in ``text``: one or several JSON values behind each other, or lists of them."""
        found, decoder, text = [], json.JSONDecoder(), text.strip()
        try:
            while text:
                value, end = decoder.raw_decode(text)
                text = text[end:].lstrip(" \n\r\t,;")
                found += [self._call(item) for item in (value if isinstance(value, list) else [value])]
        except (ValueError, RecursionError):
            return None
        calls = [call for call in found if call is not None]
        return calls if calls and len(calls) == len(found) else None

    def _call(self, value: Any) -> dict[str, str] | None:  # noqa: ANN401 - JSON
        match value:
            case {"name": str(name), "arguments": dict(arguments)} | {"name": str(name), "parameters": dict(arguments)}:
                known: Iterable[str] = self._names
                return {"name": name, "arguments": json.dumps(arguments)} if name in known else None
            case _:
                return None


def _beginning(text: str) -> int:
    """How many characters at the end of ``text`` a call may begin with."""
    for size in range(min(len(text), len(_OPEN) - 1), 0, -1):
        if _OPEN.startswith(text[-size:]):
            return size
    return 0
