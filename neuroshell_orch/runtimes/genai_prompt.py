"""From a conversation to the text that a model continues: its chat template, and what that template cannot say.

Owns what is found out about a template by rendering probes with it: whether it knows tools, calls and their results,
and how the model writes a call. What it does not know is told in words, in a system message and in tagged turns. Must
not know the token loop. Texts of errors never quote a conversation.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from neuroshell_orch.errors import OrchError
from neuroshell_orch.runtimes.genai_guidance import BARE, TAGGED, Style

if TYPE_CHECKING:
    from neuroshell_orch.workers.protocol import ChatMessage, Generate

Native: TypeAlias = Any
Turn: TypeAlias = dict[str, Any]

_HI: Final[Turn] = {"role": "user", "content": "x"}
_PROBE: Final = {
    "type": "function",
    "function": {
        "name": "probe_name",
        "description": "d",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}, "required": ["probe_key"]},
    },
}
_PROBE_TURNS: Final[list[Turn]] = [
    _HI,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "probe_name", "arguments": {"probe_key": "v"}}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "name": "probe_name", "content": "probe_result"},
]
_INSTRUCTIONS: Final = """\
You can use these tools. Each line is one tool: its name, what it does, and the JSON schema of its arguments.
{tools}

To use a tool, answer with nothing but this, for each use once:
<tool_call>
{{"name": "the tool's name", "arguments": {{"argument": "value"}}}}
</tool_call>
The result comes in the next message, inside <tool_response>. Use a tool only when it helps; else answer in words."""


class Template:
    """The chat template of one loaded model."""

    def __init__(self, tokenizer: Native) -> None:
        self._tokenizer = tokenizer
        self._has_template = self._try([_HI]) is not None
        self._native: tuple[bool, bool, Style] | None = None

    def use(self, tokenizer: Native) -> None:
        """Take another tokenizer of the same model; what was found out stays true."""
        self._tokenizer = tokenizer

    def _apply(self, turns: list[Turn], tools: str = "") -> str:
        more = {"tools": tools} if tools else {}
        text: str = self._tokenizer.apply_chat_template(json.dumps(turns), add_generation_prompt=True, **more)
        return text

    def _try(self, turns: list[Turn], tools: str = "") -> str | None:
        try:
            return self._apply(turns, tools)
        except RuntimeError:
            return None

    def _found_out(self) -> tuple[bool, bool, Style]:
        """Whether it knows tools, whether it knows calls and results, and how the model writes a call."""
        if self._native is None:
            tools = json.dumps([_PROBE])
            told = self._try([_HI], tools) or ""
            turns = self._try(_PROBE_TURNS, tools) or ""
            knows_tools = "probe_name" in told
            knows_calls = knows_tools and turns.count("probe_key") > told.count("probe_key") and "probe_result" in turns
            bare = knows_calls and "<tool_call>" not in turns and '"parameters": {"probe_key"' in turns
            self._native = knows_tools, knows_calls, BARE if bare else TAGGED
        return self._native

    @property
    def style(self) -> Style:
        """How this model writes a call."""
        return self._found_out()[2] if self._has_template else TAGGED

    def encode(self, request: Generate) -> Native:
        """The tokens that the model continues. Raises OrchError where the template cannot express the conversation."""
        try:
            if isinstance(request.prompt, list):
                return request.prompt
            return self._tokenizer.encode(request.prompt if request.prompt is not None else self._text(request))
        except RuntimeError:  # its text may quote the prompt
            raise OrchError(
                "bad-request",
                "The model's chat template cannot express this conversation.",
                "Use the roles system, user and assistant, beginning with system or user and alternating.",
            ) from None

    def _text(self, request: Generate) -> str:
        messages = request.messages
        if request.tools is None and not any(m.tool_calls or m.role == "tool" for m in messages):
            turns: list[Turn] = [{"role": message.role, "content": message.content} for message in messages]
            return self._apply(turns) if self._has_template else "\n".join(turn["content"] for turn in turns)
        functions = json.loads(request.tools.functions) if request.tools is not None else []
        knows_tools, knows_calls, _style = self._found_out() if self._has_template else (False, False, TAGGED)
        turns = [_native(message) for message in messages] if knows_calls else _told(messages)
        tools = ""
        if functions and knows_tools:
            tools = json.dumps([{"type": "function", "function": function} for function in functions])
        elif functions:
            words = _INSTRUCTIONS.format(tools="\n".join(json.dumps(function) for function in functions))
            if turns and turns[0]["role"] == "system":
                turns[0] = {"role": "system", "content": f"{turns[0]['content']}\n\n{words}"}
            else:
                turns.insert(0, {"role": "system", "content": words})
        if self._has_template:
            return self._apply(turns, tools)
        return "\n".join(turn["content"] for turn in turns)


def _calls(message: ChatMessage) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = json.loads(message.tool_calls) if message.tool_calls else []
    return calls


def _native(message: ChatMessage) -> Turn:
    turn: Turn = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for c in _calls(message)
        ]
    if message.role == "tool":
        turn |= {"tool_call_id": message.tool_call_id, "name": message.name}
    return turn


def _told(messages: list[ChatMessage]) -> list[Turn]:
    """The conversation for a template that knows nothing of tools: calls and results are tagged text."""
    turns: list[Turn] = []
    for message in messages:
        role, content = message.role, message.content
        for call in _calls(message):
            written = json.dumps({"name": call["name"], "arguments": call["arguments"]})
            content += f"{TAGGED.before if not content else chr(10) + TAGGED.before}{written}{TAGGED.behind}"
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
            if turns and turns[-1]["role"] == "user":  # several results, or a question right behind: one turn
                turns[-1]["content"] += f"\n{content}"
                continue
        turns.append({"role": role, "content": content})
    return turns
