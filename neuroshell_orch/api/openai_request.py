"""The requests of OpenAI's convention: their fields, and what the worker is asked to do for them.

Owns names, bounds and defaults of the fields, and the refusal of those that would change the answer and that we do not
honour. A field that nobody knows is refused too, at the top level; in a message it is ignored, because clients send
back whole what they got from others. Where no temperature is given, the model's own configuration chooses, not
OpenAI's default: small models need it. Must not know how an answer is made or shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from neuroshell_orch.api import keep_alive
from neuroshell_orch.core.messages import AskOptions
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import ChatMessage, Generate

if TYPE_CHECKING:
    from neuroshell_orch.workers.protocol import Tools

ROLES: Final = frozenset({"system", "user", "assistant", "tool"})
MAX_CHOICES: Final = 64
"""Answers of one request: n times the prompts."""
MAX_SCORES: Final = 20
MAX_BIASES: Final = 1024
"""Each of them costs time at every token."""
BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (0, 1 << 20),
    "seed": (-1, 2**63 - 1),
    "max_tokens": (1, 1 << 24),
    "n": (1, MAX_CHOICES),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "top_logprobs": (0, MAX_SCORES),
}
"""What a field may be. Checked here, since msgspec's sentences do not say the value; the description shows it."""
_PRIORITIES: Final = {"flex": "background", "priority": "interactive"}


def shown_bounds(name: str) -> msgspec.Meta:
    """The bounds of a field, for its description."""
    low, high = BOUNDS[name]
    return msgspec.Meta(extra_json_schema={"minimum": low, "maximum": high})


class Part(msgspec.Struct):
    """One part of a message's content; only text is understood."""

    type: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["text"]})]
    text: str = ""


class Called(msgspec.Struct):
    """Which function a call was for; ``arguments`` is JSON text."""

    name: str
    arguments: str = "{}"


class Call(msgspec.Struct):
    """A call that an assistant made earlier."""

    id: str
    function: Called
    type: str = "function"


class Turn(msgspec.Struct):
    """One message."""

    role: Annotated[str, msgspec.Meta(extra_json_schema={"enum": [*sorted(ROLES), "developer"]})]
    content: str | list[Part] | None = None
    tool_calls: list[Call] | None = None
    """The calls that an assistant made."""
    tool_call_id: str | None = None
    """Which of them a message of the role tool answers."""


class Function(msgspec.Struct):
    """A function that an answer may call."""

    name: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^[A-Za-z0-9_-]{1,64}$"})]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema of the type object."""
    strict: bool | None = None
    """Hold the arguments to the schema, also where the model chooses freely whether to call."""


class Tool(msgspec.Struct):
    """A tool; only functions are understood."""

    type: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["function"]})]
    function: Function | None = None


class StreamOptions(msgspec.Struct):
    """How a stream ends."""

    include_usage: bool = False
    """A last event with ``usage`` and ``timings``."""
    include_obfuscation: bool = False
    """Changes nothing: nobody listens to a socket of this machine."""


class Sampling(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What chats and raw completions have in common."""

    model: str | None = None
    """A registered model; the default model where none is named."""
    stream: bool | None = None
    """Answer in pieces."""
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int | None, shown_bounds("max_tokens")] = None
    """The longest answer; without it, as long as the model's context allows."""
    temperature: Annotated[float | None, shown_bounds("temperature")] = None
    """Without it and ``top_p`` and ``top_k``, the model's own configuration chooses."""
    top_p: Annotated[float | None, shown_bounds("top_p")] = None
    top_k: Annotated[int | None, shown_bounds("top_k")] = None
    """Ours and Ollama's."""
    seed: Annotated[int | None, shown_bounds("seed")] = None
    """The same seed gives the same answer on the same machine."""
    stop: str | list[str] | None = None
    """Texts before which the answer ends."""
    n: Annotated[int | None, shown_bounds("n")] = None
    """How many answers."""
    frequency_penalty: Annotated[float | None, shown_bounds("frequency_penalty")] = None
    presence_penalty: Annotated[float | None, shown_bounds("presence_penalty")] = None
    logit_bias: dict[int, float] | None = None
    """Token → what is added to its logit, -100 to 100."""
    keep_alive: int | float | str | None = None
    """Ours and Ollama's: how long the model should stay warm afterwards."""
    # Labels: none of them changes the answer.
    user: str | None = None
    """A label, as all that follow but ``service_tier``: none changes the answer."""
    metadata: Any = None
    store: bool | None = None
    service_tier: str | None = None
    """``flex`` waits behind others, ``priority`` goes before them."""
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Any = None


class ChatRequest(Sampling, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/chat/completions."""

    messages: list[Turn]
    max_completion_tokens: Annotated[int | None, shown_bounds("max_tokens")] = None
    """The newer name of ``max_tokens``, before which it goes."""
    logprobs: bool | None = None
    """Tell how likely each token was."""
    top_logprobs: Annotated[int | None, shown_bounds("top_logprobs")] = None
    """And so many alternatives to it."""
    response_format: Any = None
    """text, json_object, or json_schema with ``json_schema.schema``: the answer always validates."""
    tools: list[Tool] | None = None
    tool_choice: Any = None
    """none, auto, required, one function, or allowed_tools."""
    parallel_tool_calls: bool | None = None
    """False: one call at most."""
    prediction: Any = None
    """Makes an answer faster elsewhere; it never changes one."""
    # Understood well enough to be refused: each would change the answer.
    functions: Any = None
    """Refused, as all that follow, unless it says what is the case anyway."""
    function_call: Any = None
    audio: Any = None
    modalities: Any = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    web_search_options: Any = None


def refuse(asked: dict[str, bool], hint: str = "Leave it out of the request.") -> None:
    """Raises OrchError that names what is asked for and cannot be done."""
    names = [name for name, present in asked.items() if present]
    if names:
        raise OrchError("unsupported", f"Not supported: {', '.join(names)}.", hint)


def between(name: str, value: float | None, low: float, high: float) -> None:
    """Raises OrchError where ``value`` is outside its bounds."""
    if value is not None and not low <= value <= high:
        said = f"{value:g}" if abs(value) < 1e300 else "beyond all numbers"  # whole numbers of JSON have no end
        raise OrchError("bad-request", f"{name} is {said}, and must be between {low:g} and {high:g}.", "")


def text_of(content: str, where: str) -> str:
    """``content`` if it is text that a tokenizer reads to its end."""
    if "\0" in content:  # the runtime's tokenizer would silently end there
        raise OrchError("bad-request", f"{where} holds a NUL character.", "Send text.")
    return content


def ask_options(wanted: Sampling) -> AskOptions:
    """What the core is told about the ask."""
    priority = _PRIORITIES.get(wanted.service_tier or "", "normal")
    return AskOptions(keep_alive=keep_alive.seconds(wanted.keep_alive), priority=priority)


def sampling(wanted: Sampling, limit: int | None) -> Generate:
    """The worker's request but for its prompt. Raises OrchError that names the field which is out of bounds."""
    for name in ("temperature", "top_p", "top_k", "seed", "n", "frequency_penalty", "presence_penalty"):
        between(name, getattr(wanted, name), *BOUNDS[name])
    between("max_tokens", limit, *BOUNDS["max_tokens"])
    bias = wanted.logit_bias or {}
    between("the number of entries in logit_bias", len(bias), 0, MAX_BIASES)
    for token, value in bias.items():
        between(f"logit_bias[{token}]", value, -100, 100)
    temperature = wanted.temperature
    if temperature is None:
        temperature = -1.0 if wanted.top_p is None and wanted.top_k is None else 1.0
    stop = [wanted.stop] if isinstance(wanted.stop, str) else (wanted.stop or [])
    return Generate(
        job=0,
        messages=[],
        max_tokens=limit or 0,
        temperature=temperature,
        top_p=1.0 if wanted.top_p is None else wanted.top_p,
        top_k=wanted.top_k or 0,
        seed=-1 if wanted.seed is None else wanted.seed,
        stop=[text for text in stop if text],
        frequency_penalty=wanted.frequency_penalty or 0.0,
        presence_penalty=wanted.presence_penalty or 0.0,
        bias=bias,
    )


def several(request: Generate, count: int) -> list[Generate]:
    """``count`` times the same, each with a seed of its own."""
    if request.seed < 0:
        return [request] * count
    return [msgspec.structs.replace(request, seed=(request.seed + number) & (2**63 - 1)) for number in range(count)]


def chat_request(wanted: ChatRequest) -> Generate:
    """The worker's request. Raises OrchError that names what cannot be done."""
    refuse(
        {
            "audio": wanted.audio is not None,
            "modalities": wanted.modalities not in (None, ["text"]),
            "reasoning_effort": wanted.reasoning_effort not in {None, "none"},
            "verbosity": wanted.verbosity not in {None, "medium"},
            "web_search_options": wanted.web_search_options is not None,
        }
    )
    refuse({"functions": bool(wanted.functions), "function_call": bool(wanted.function_call)}, "Use tools instead.")
    limit = wanted.max_completion_tokens if wanted.max_completion_tokens is not None else wanted.max_tokens
    request = sampling(wanted, limit)
    messages = [_message(turn, index) for index, turn in enumerate(wanted.messages)]
    if any(turn.tool_calls or turn.role == "tool" for turn in wanted.messages):
        from neuroshell_orch.api.openai_tools import history  # noqa: PLC0415 - most chats have no tools

        messages = history(wanted.messages, messages)
    if not any(message.role in {"user", "tool"} and message.content.strip() for message in messages):
        raise OrchError("empty-prompt", "The prompt is empty.", "Say something in a message with the role user.")
    schema, tools = _held_to(wanted)
    if request.stop and (schema or (tools is not None and tools.required)):
        refuse({"stop with a JSON answer": True}, "A stop string would cut the JSON: leave one of them out.")
    return msgspec.structs.replace(request, messages=messages, schema=schema, tools=tools, scores=_scores(wanted))


def _held_to(wanted: ChatRequest) -> tuple[str, Tools | None]:
    schema, tools = "", None
    if wanted.response_format is not None:
        from neuroshell_orch.api.openai_format import schema_of  # noqa: PLC0415 - most chats are plain text

        schema = schema_of(wanted.response_format)
    if wanted.tools or wanted.tool_choice is not None:
        from neuroshell_orch.api.openai_tools import tools_of  # noqa: PLC0415 - likewise

        tools = tools_of(wanted)
    return schema, tools


def _scores(wanted: ChatRequest) -> int:
    between("top_logprobs", wanted.top_logprobs, *BOUNDS["top_logprobs"])
    if not wanted.logprobs:
        if wanted.top_logprobs:
            raise OrchError("bad-request", "top_logprobs is given without logprobs.", "Set logprobs to true as well.")
        return -1
    return wanted.top_logprobs or 0


def _message(turn: Turn, index: int) -> ChatMessage:
    role = "system" if turn.role == "developer" else turn.role
    if role not in ROLES:
        known = ", ".join(sorted(ROLES))
        raise OrchError("bad-request", f"messages[{index}].role is {turn.role[:40]!r}.", f"Known roles: {known}.")
    if isinstance(turn.content, list):
        if any(part.type != "text" for part in turn.content):
            raise OrchError("unsupported", f"messages[{index}].content has parts that are not text.", "")
        text = "".join(part.text for part in turn.content)
    else:
        text = turn.content or ""
    return ChatMessage(role, text_of(text, f"messages[{index}].content"))
