"""The frames between the daemon and a worker, and how they lie on the wire.

Owns the message types of both directions and their framing: a 4-byte little-endian length, then one msgpack map
tagged by ``t``. Used by the parent (``process``) and by the child (``child``); must not know either of them,
and must stay cheap to import because it stands on the path to the first token.

A worker holds at most one model. It takes frames in order and runs one at a time, but for answers, of which it may
write several at once; only ``Cancel`` and ``Hold`` overtake. End of file on the socket means that the daemon is gone:
the worker exits at once.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

MAX_FRAME: Final = 1 << 30
"""Bytes. A longer frame is a broken peer, not a big tensor."""

HEADER: Final = struct.Struct("<I")


class Message(msgspec.Struct, frozen=True, gc=False, tag_field="t", tag=str.lower, omit_defaults=True):
    """Base of every frame."""


class Tensor(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One tensor. ``datatype`` is the Open Inference Protocol's name (FP32, INT64, BYTES…).

    ``data`` is C-contiguous little-endian; for BYTES each element is a 4-byte little-endian length and its bytes.
    """

    name: str
    datatype: str
    shape: list[int]
    data: bytes


class TensorInfo(msgspec.Struct, frozen=True, gc=False):
    """A declared input or output of a tensor model; a dynamic dimension is -1."""

    name: str
    datatype: str
    shape: list[int]


class ChatMessage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One turn of a conversation: ``role`` is system, user, assistant or tool.

    ``tool_calls`` is the JSON text of the calls that an assistant made, a list of ``{"name", "arguments", "id"}``;
    ``tool_call_id`` is the call that a tool's turn answers, ``name`` that tool's name.
    """

    role: str
    content: str
    tool_calls: str = ""
    tool_call_id: str = ""
    name: str = ""


class TokenScore(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """How likely a token was, as a natural logarithm, and the likeliest ones in its place.

    ``text`` has replacement characters where the token is no whole character.
    """

    text: str
    logprob: float
    likeliest: list[tuple[str, float]] = []


class Tools(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Functions that an answer may call. ``functions`` is the JSON text of a list of ``{"name", "parameters", …}``.

    With ``required`` the answer is nothing but calls, whose arguments validate; otherwise the model chooses.
    ``most`` is how many calls one answer may have. ``strict``: refuse parameters whose schema cannot be enforced, even
    where the model chooses.
    """

    functions: str
    required: bool = False
    most: int = 1
    strict: bool = False


# ---- daemon to worker ------------------------------------------------------------------------------------------


class Announce(Message, frozen=True):
    """A Load of ``path`` by ``runtime`` may follow: import it and read ahead. Not answered, whatever comes of it."""

    runtime: str
    path: str = ""


class Standby(Message, frozen=True):
    """Import ``runtime``, load its tiny dummy model and run it once. Answered by Parked.

    What is small of the model at ``path`` may be made ready besides; what cannot be, a Load says.
    """

    runtime: str
    path: str = ""


class Load(Message, frozen=True):
    """Load a model. Answered by Loaded or Failed. ``threads`` 0 means every core this process may use.

    ``parallel`` answers will be written at once. ``keep_prefix``: what was computed for a prompt may be kept for the
    next one that begins alike.
    """

    model: str
    runtime: str
    path: str
    threads: int = 0
    context_length: int = 0
    options: dict[str, str] = {}
    parallel: int = 1
    keep_prefix: bool = True


class Hibernate(Message, frozen=True):
    """Give the weight pages back to the kernel, keep the session. Answered by Hibernated or Failed."""


class Wake(Message, frozen=True):
    """Fault the weight pages in again. Answered by Woken or Failed."""


class Generate(Message, frozen=True):
    """Write an answer to ``messages``. Answered by Pieces and one Done, or by Failed with the same ``job``.

    ``temperature`` 0 is greedy; below 0 the model's own way of choosing holds, as its configuration says.
    ``max_tokens`` 0 means as many as the context holds. A ``prompt`` (text or tokens) takes the place of the messages
    and is continued as it is, without the model's chat template. ``schema`` is the JSON text of a JSON schema that the
    answer validates against, unless it is cut off; ``scores`` the number of likeliest tokens to name with each token's
    own logprob, or -1 for none of it. ``bias`` is added to the logits of these tokens, the penalties are taken from
    those of tokens that the answer has already; by ``repeat_penalty`` the logits of tokens that the prompt or the
    answer has are divided. ``context`` above 0 is a bound on prompt and answer together, below the model's own.
    """

    job: int
    messages: list[ChatMessage]
    max_tokens: int = 0
    temperature: float = -1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = -1
    stop: list[str] = []
    prompt: str | list[int] | None = None
    schema: str = ""
    tools: Tools | None = None
    scores: int = -1
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_penalty: float = 1.0
    context: int = 0
    bias: dict[int, float] = {}


class Infer(Message, frozen=True):
    """Run a tensor model once. Answered by Outputs, or by Failed with the same ``job``. No ``outputs`` means all."""

    job: int
    inputs: list[Tensor]
    outputs: list[str] = []


class Embed(Message, frozen=True):
    """Turn each of ``inputs`` (a text, or tokens) into a vector. Answered by Embedded, or Failed with the same ``job``.

    ``dimensions`` above 0 asks for so many leading values, where the model allows it. An input that is longer than the
    model reads is cut off where ``truncate`` says so, and refused otherwise.
    """

    job: int
    inputs: list[str | list[int]]
    dimensions: int = 0
    truncate: bool = True


class Cancel(Message, frozen=True):
    """Stop ``job`` soon. It still ends with Done (cancelled), Outputs, Embedded or Failed. Unknown jobs are ignored."""

    job: int


class Hold(Message, frozen=True):
    """Write no more of ``job`` until it is let go again: nobody reads what there is. Unknown jobs are ignored."""

    job: int
    held: bool = True


# ---- worker to daemon ------------------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First frame of every worker: it runs and reads."""

    pid: int


class Parked(Message, frozen=True):
    """The runtime is imported and the dummy model has run."""

    runtime_version: str
    seconds: float


class Loaded(Message, frozen=True):
    """The model can answer. ``context_length`` and the tensor lists are empty where they do not apply.

    ``can_hibernate`` is false where most weights lie in anonymous memory, so that giving pages back frees little.
    ``marks``: when what happened in this process, on the monotonic clock.
    """

    seconds: float
    runtime_version: str = ""
    device: str = "cpu"
    context_length: int = 0
    can_hibernate: bool = False
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    marks: dict[str, float] = {}


class Hibernated(Message, frozen=True):
    """``given_back`` bytes of clean, file-backed weights are no longer resident for this process."""

    given_back: int
    seconds: float


class Woken(Message, frozen=True):
    """The weights are resident again."""

    seconds: float


class Piece(Message, frozen=True):
    """Some text of an answer, never cut inside a character; ``tokens`` is how many tokens it took."""

    job: int
    text: str
    tokens: int = 1
    scores: list[TokenScore] = []


class Done(Message, frozen=True):
    """An answer ended: ``reason`` is stop, length or cancelled. Times in seconds.

    ``cached_tokens`` of the prompt were known from an earlier one.
    """

    job: int
    reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    cached_tokens: int = 0


class Outputs(Message, frozen=True):
    """What a tensor model returned."""

    job: int
    tensors: list[Tensor]


class Embedded(Message, frozen=True):
    """A vector for each input, one after the other in ``vectors``: little-endian float32, ``dimensions`` numbers each.

    ``tokens`` is how many the model read, with those that it puts around each input; ``truncated`` how many inputs were
    cut off.
    """

    job: int
    dimensions: int
    vectors: bytes
    tokens: int
    truncated: int = 0


class Failed(Message, frozen=True):
    """An operation (``job`` 0) or a job failed; ``problem`` is a key of ``errors.PROBLEMS``. The worker lives on."""

    problem: str
    message: str
    hint: str = ""
    job: int = 0


ToWorker = Announce | Standby | Load | Hibernate | Wake | Generate | Infer | Embed | Cancel | Hold
FromWorker = Hello | Parked | Loaded | Hibernated | Woken | Piece | Done | Outputs | Embedded | Failed

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode(message: Message) -> bytearray:
    """One frame, ready to be sent."""
    buffer = bytearray(HEADER.size)
    _encoder.encode_into(message, buffer, HEADER.size)
    HEADER.pack_into(buffer, 0, len(buffer) - HEADER.size)
    return buffer


def decode_to_worker(payload: bytes | memoryview) -> ToWorker:
    """The daemon's message in ``payload`` (without header). Raises msgspec.ValidationError or DecodeError."""
    return _to_worker.decode(payload)


def decode_from_worker(payload: bytes | memoryview) -> FromWorker:
    """The worker's message in ``payload`` (without header). Raises msgspec.ValidationError or DecodeError."""
    return _from_worker.decode(payload)
