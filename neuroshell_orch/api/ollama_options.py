"""``options`` of Ollama's convention: what they mean for the worker, and which of them are refused.

Owns names, types and defaults. Unknown options and those that only say how a model is to be loaded are ignored, as
Ollama does: where and how a model runs is the service's to decide. An option that would change the answer and that we
do not honour is an error that names it. Must not know requests.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import msgspec

from neuroshell_orch.api.openai_request import BOUNDS, between
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST: Final = 1 << 24
"""Tokens; more than that is no bound."""
REPEAT: Final = (0.1, 10)
MOST_CONTEXT: Final = 1 << 31
_NEUTRAL: Final[dict[str, float]] = {"min_p": 0, "typical_p": 1, "tfs_z": 1, "mirostat": 0}
"""Options that we do not honour, with the value that changes nothing."""


def _between(name: str) -> dict[str, Any]:
    low, high = BOUNDS[name]
    return {"type": ["number", "null"], "minimum": low, "maximum": high}


_WHOLE: Final[dict[str, Any]] = {"type": ["integer", "null"], "minimum": 1 - (1 << 64), "maximum": (1 << 64) - 1}
_KNOWN: Final[dict[str, Any]] = {
    **{name: _between(name) for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty")},
    "top_k": {**_WHOLE, "maximum": BOUNDS["top_k"][1]},
    "repeat_penalty": {"type": ["number", "null"], "minimum": REPEAT[0], "maximum": REPEAT[1]},
    **dict.fromkeys(("repeat_last_n", "seed", "num_predict"), _WHOLE),
    "num_ctx": {**_WHOLE, "minimum": 1, "maximum": MOST_CONTEXT},
    "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
}
SHOWN: Final = msgspec.Meta(extra_json_schema={"properties": _KNOWN})
"""What ``read`` takes, for the description."""


class Options(msgspec.Struct, frozen=True):
    """What is honoured. None means that the model's own configuration decides."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: list[str] = []
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float = 1.0
    limit: int | None = None
    """Tokens of the answer."""
    context: int = 0
    """A bound on prompt and answer together; it never makes a model load again."""


def read(given: Mapping[str, Any] | None) -> Options:
    """The options. Raises OrchError that names the one which does not fit or is not honoured."""
    given = given or {}
    refused = [name for name, neutral in _NEUTRAL.items() if _number(given, name) not in {None, neutral}]
    repeat = _number(given, "repeat_penalty")
    between("options.repeat_penalty", repeat, *REPEAT)
    window = _whole(given, "repeat_last_n")
    if window == 0:
        repeat = None  # a window of nothing
    penalties = (_number(given, "frequency_penalty"), _number(given, "presence_penalty"))
    if repeat in {None, 1.0} and not any(penalties):
        pass  # nothing is penalised, whatever the window
    elif window not in {None, -1, 0}:
        refused.append("repeat_last_n")
    elif repeat not in {None, 1.0} and given.get("penalize_newline") is False:
        refused.append("penalize_newline")
    if refused:
        hint = "Leave it out. Penalties count the whole context, which is repeat_last_n -1."
        names = ", ".join(f"options.{name}" for name in refused)
        raise OrchError(
            "unsupported", f"Not supported: {names}.", hint if "repeat_last_n" in refused else "Leave it out."
        )
    top_k, seed = _whole(given, "top_k"), _whole(given, "seed")
    limit, context = _whole(given, "num_predict"), _whole(given, "num_ctx")
    if context is not None:
        between("options.num_ctx", context, 1, MOST_CONTEXT)
    return Options(
        temperature=_number(given, "temperature"),
        top_p=_number(given, "top_p"),
        top_k=None if top_k is None else max(0, top_k),
        seed=None if seed is None or seed < 0 else seed & (2**63 - 1),
        stop=_stop(given.get("stop")),
        frequency_penalty=penalties[0],
        presence_penalty=penalties[1],
        repeat_penalty=1.0 if repeat is None else repeat,
        limit=limit if limit is not None and 0 < limit <= _LONGEST else None,
        context=context or 0,
    )


def _number(given: Mapping[str, Any], name: str) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    # Compared, not converted: whole numbers of JSON have no end.
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
        raise OrchError("bad-request", f"options.{name} is not a number.", "")
    return value


def _whole(given: Mapping[str, Any], name: str) -> int | None:
    value = _number(given, name)
    if value is None:
        return None
    if value != int(value) or abs(value) >= 1 << 64:
        raise OrchError("bad-request", f"options.{name} is not a whole number.", "")
    return int(value)


def _stop(value: Any) -> list[str]:  # noqa: ANN401 - JSON
    match value:
        case None:
            return []
        case str():
            return [value]
        case [*texts] if all(isinstance(text, str) for text in texts):
            return list(texts)
        case _:
            raise OrchError("bad-request", "options.stop is neither a text nor a list of them.", "")
