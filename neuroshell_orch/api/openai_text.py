"""``/v1/completions``: a raw prompt that the model continues, without its chat template.

Owns the fields of that request and their bounds. ``max_tokens`` is 16 where none is given, as the convention has it.
Must not know how an answer is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from neuroshell_orch.api.openai_answer import Job
from neuroshell_orch.api.openai_request import (
    MAX_CHOICES,
    Sampling,
    ask_options,
    between,
    refuse,
    sampling,
    several,
    text_of,
)
from neuroshell_orch.api.openai_voices import TextVoice
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from neuroshell_orch.api.openai_voices import Voice
    from neuroshell_orch.workers.protocol import Generate

DEFAULT_TOKENS: Final = 16
MAX_SCORES: Final = 5


class TextRequest(Sampling, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/completions: ``prompt`` is a text, the numbers of its tokens, or a list of either."""

    prompt: str | list[Any] | None = None
    """Text, numbers of tokens, or a list of either."""
    echo: bool | None = None
    """The answer begins with the prompt."""
    logprobs: Annotated[int | None, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": MAX_SCORES})] = None
    """Tell how likely each token was, and so many alternatives to it."""
    best_of: int | None = None
    """Refused unless it is ``n``."""
    suffix: str | None = None
    """Refused."""


def text_job(wanted: TextRequest, model: str) -> Job:
    """What is asked of ``model``. Raises OrchError that names what cannot be done."""
    prompts = _prompts(wanted.prompt)
    each = wanted.n or 1
    refuse({"suffix": bool(wanted.suffix), "best_of": wanted.best_of not in {None, each}})
    between("logprobs", wanted.logprobs, 0, MAX_SCORES)
    tokens = any(isinstance(prompt, list) for prompt in prompts)
    refuse({"echo with a prompt of tokens": bool(wanted.echo) and tokens}, "Send the prompt as text.")
    refuse({"echo with logprobs": bool(wanted.echo) and wanted.logprobs is not None}, "Leave one of them out.")
    base = sampling(wanted, DEFAULT_TOKENS if wanted.max_tokens is None else wanted.max_tokens)
    between("n times the prompts", each * len(prompts), 1, MAX_CHOICES)
    scores = -1 if wanted.logprobs is None else wanted.logprobs
    requests: list[Generate] = []
    voices: list[Voice] = []
    for prompt in prompts:
        one = msgspec.structs.replace(base, prompt=prompt, scores=scores)
        requests += several(one, each)
        voices += [TextVoice(prompt if wanted.echo and isinstance(prompt, str) else "") for _ in range(each)]
    return Job(
        model=model,
        requests=requests,
        voices=voices,
        options=ask_options(wanted),
        each=each,
        stream=bool(wanted.stream),
        usage=wanted.stream_options is not None and wanted.stream_options.include_usage,
        kind="text_completion",
        chunk="text_completion",
        mark="cmpl",
    )


def _prompts(prompt: str | list[Any] | None) -> list[str | list[int]]:
    match prompt:
        case str():
            prompts: list[Any] = [prompt]
        case [int(), *_]:
            prompts = [prompt]
        case list() if prompt:
            prompts = prompt
        case _:
            raise OrchError("empty-prompt", "The prompt is empty.", "Write something that the model can continue.")
    return [_prompt(one, "prompt" if len(prompts) == 1 else f"prompt[{at}]") for at, one in enumerate(prompts)]


def _prompt(prompt: Any, where: str) -> str | list[int]:  # noqa: ANN401 - JSON
    if isinstance(prompt, str):
        if not prompt:
            raise OrchError("empty-prompt", f"{where} is empty.", "Write something that the model can continue.")
        return text_of(prompt, where)
    numbers = isinstance(prompt, list) and all(type(token) is int and 0 <= token < 1 << 31 for token in prompt)
    if not numbers or not prompt:
        raise OrchError("bad-request", f"{where} is neither a text nor a list of tokens.", "Send text.")
    return list(prompt)
