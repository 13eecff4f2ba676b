"""The requests of ``/api/generate`` and ``/api/chat``: their fields, and what the worker is asked to do for them.

Owns the way from these fields to those of OpenAI's convention, whose module then does what both have in common:
sampling, tools, histories, schemas. Fields that would change the answer and that we do not honour are refused by name;
fields that nobody knows are ignored, as Ollama does. Must not know how an answer is made or shown.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from neuroshell_orch.api import ollama_options
from neuroshell_orch.api.ollama_options import SHOWN
from neuroshell_orch.api.openai_request import (
    ROLES,
    Call,
    Called,
    ChatRequest,
    Function,
    Tool,
    Turn,
    chat_request,
    refuse,
    shown_bounds,
)
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Generate

_FORMATS: Final = 'Use "json" or a JSON schema.'


class Body(msgspec.Struct, kw_only=True):
    """What both requests have in common."""

    model: str | None = None
    """A registered model, with or without a tag. Needed."""
    stream: bool | None = None
    """Answer in pieces, one JSON object a line; so it is unless this is false."""
    format: Any = None
    """``json``, or a JSON schema: the answer always validates."""
    options: Annotated[dict[str, Any] | None, SHOWN] = None
    """How tokens are chosen; unknown ones are ignored, as Ollama does."""
    keep_alive: int | float | str | None = None
    """``"10m"``, seconds, negative for ever, 0 for gone after the answer."""
    think: bool | str | None = None
    """Only what the model does anyway."""
    logprobs: bool | None = None
    """Tell how likely each token was."""
    top_logprobs: Annotated[int | None, shown_bounds("top_logprobs")] = None
    """And so many alternatives to it."""
    render_only: bool | None = msgspec.field(default=None, name="_debug_render_only")


class GenerateBody(Body, kw_only=True):
    """Body of POST /api/generate."""

    prompt: str | None = None
    """An empty one loads the model."""
    suffix: str | None = None
    """Refused."""
    system: str | None = None
    """What the model is told before the prompt."""
    template: str | None = None
    """Refused."""
    context: list[Any] | None = None
    """Refused."""
    raw: bool | None = None
    """Send the prompt as it is, without the model's template."""
    images: list[Any] | None = None
    """Refused, as all that follow."""
    width: int | None = None
    height: int | None = None
    steps: int | None = None


class MadeFunction(msgspec.Struct):
    """Which function an earlier call was for."""

    name: str
    arguments: Any = msgspec.field(default_factory=dict)


class MadeCall(msgspec.Struct):
    """A call that an assistant made earlier; here calls mostly have no name of their own."""

    function: MadeFunction
    id: str | None = None


class Message(msgspec.Struct):
    """One message."""

    role: Annotated[str, msgspec.Meta(extra_json_schema={"enum": [*sorted(ROLES), "developer"]})]
    content: str | None = None
    images: list[Any] | None = None
    """Refused."""
    tool_calls: list[MadeCall] | None = None
    """The calls that an assistant made."""
    tool_name: str | None = None
    """Which function's result a message of the role tool is."""
    tool_call_id: str | None = None


class OfferedTool(msgspec.Struct):
    """A tool; only functions are understood."""

    type: str | None = "function"
    function: Function | None = None


class ChatBody(Body, kw_only=True):
    """Body of POST /api/chat."""

    messages: list[Message] | None = None
    tools: list[OfferedTool] | None = None


def of_generate(body: GenerateBody) -> Generate:
    """The worker's request for a prompt. Raises OrchError that names what cannot be done."""
    refuse(
        {
            "suffix": bool(body.suffix),
            "template": bool(body.template),
            "context": bool(body.context),
            "images": bool(body.images),
            "width, height or steps": bool(body.width or body.height or body.steps),
        }
    )
    refuse({"system with raw": bool(body.raw and body.system)}, "Write it into the prompt, which is sent as it is.")
    turns = [Turn("user", body.prompt or "")]
    if body.system:
        turns.insert(0, Turn("system", body.system))
    request = _request(body, turns)
    if body.raw:
        return msgspec.structs.replace(request, messages=[], prompt=body.prompt)
    return request


def of_chat(body: ChatBody) -> Generate:
    """The worker's request for a conversation. Raises OrchError that names what cannot be done."""
    messages = body.messages or []
    refuse({f"messages[{index}].images": bool(message.images) for index, message in enumerate(messages)})
    tools = [Tool(tool.type or "function", tool.function) for tool in body.tools or []]
    return _request(body, _turns(messages), tools)


def _request(body: Body, turns: list[Turn], tools: list[Tool] | None = None) -> Generate:
    refuse({"_debug_render_only": bool(body.render_only)})
    options = ollama_options.read(body.options)
    wanted = ChatRequest(
        messages=turns,
        max_tokens=options.limit,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        seed=options.seed,
        stop=options.stop,
        frequency_penalty=options.frequency_penalty,
        presence_penalty=options.presence_penalty,
        logprobs=body.logprobs,
        top_logprobs=body.top_logprobs,
        response_format=_format(body.format),
        tools=tools or None,
    )
    return msgspec.structs.replace(chat_request(wanted), repeat_penalty=options.repeat_penalty, context=options.context)


def _format(form: Any) -> dict[str, Any] | None:  # noqa: ANN401 - JSON
    match form:
        case None | "":
            return None
        case "json":
            return {"type": "json_object"}
        case dict():
            from neuroshell_orch.api.openai_format import bounded  # noqa: PLC0415 - most answers are plain text

            bounded(form, "format")
            return {"type": "json_schema", "json_schema": {"schema": form}}
        case _:
            raise OrchError("bad-request", "format has a form that is not known here.", _FORMATS)


def _turns(messages: list[Message]) -> list[Turn]:
    """The conversation, with names for calls that have none: a result answers the earliest call that has no result."""
    turns: list[Turn] = []
    open_calls: dict[str, str] = {}
    for index, message in enumerate(messages):
        turn = Turn(message.role, message.content)
        if message.tool_calls and message.role == "assistant":
            turn.tool_calls = [
                Call(call.id or f"call_{index}_{number}", Called(call.function.name, _text(call.function.arguments)))
                for number, call in enumerate(message.tool_calls)
            ]
            open_calls |= {call.id: call.function.name for call in turn.tool_calls}
        elif message.role == "tool":
            turn.tool_call_id = _answered(message, open_calls, index)
            del open_calls[turn.tool_call_id]
        turns.append(turn)
    return turns


def _answered(message: Message, open_calls: dict[str, str], index: int) -> str:
    if message.tool_call_id:
        found = [made for made in open_calls if made == message.tool_call_id]
    else:
        found = [made for made, name in open_calls.items() if message.tool_name in {None, "", name}]
    if not found:
        hint = "A result follows the assistant's message with tool_calls; tool_name is the function's name."
        raise OrchError("bad-request", f"messages[{index}] is a tool's result and answers no call before it.", hint)
    return found[0]


def _text(arguments: Any) -> str:  # noqa: ANN401 - JSON
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
