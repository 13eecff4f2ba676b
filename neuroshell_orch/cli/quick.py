"""The usual command lines of ``nsorch ask``, read without a parser's import, which takes as long as all the rest.

Owns the options as ``ask`` declares them, and the decision to leave everything else to it: help, completion, whatever
is wrong. What is understood here means the same there; a test compares the two. Must not know what is done with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) < least:
            raise ValueError(text)
        return int(text)

    return read


def _temperature(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or not 0.0 <= value <= 2.0:
        raise ValueError(text)
    return value


VALUES: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "-m": ("model", str),
    "--model": ("model", str),
    "--system": ("system", str),
    "--max-tokens": ("max_tokens", _whole(1)),
    "--temperature": ("temperature", _temperature),
    "--seed": ("seed", _whole(0)),
}
FLAGS: Final = {"--stats": "stats", "--trace": "trace", "--json": "as_json"}


def read(arguments: Sequence[str]) -> dict[str, Any] | None:
    """What ``asking.run`` is to be called with; None where the parser has to look."""
    found: dict[str, Any] = {"words": []}
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            found["words"] += rest
        elif word == "-" or not word.startswith("-"):
            found["words"].append(word)
        elif word in FLAGS:
            found[FLAGS[word]] = True
        elif not _take(word, rest, found):
            return None
    return found


def _take(word: str, rest: Any, found: dict[str, Any]) -> bool:  # noqa: ANN401 - an iterator
    """One option with a value. False where it is none, or none that can be."""
    name, equals, given = word.partition("=")
    value: str | None = given if equals else next(rest, None)
    if name not in VALUES or (name == "-m" and equals) or value is None:
        return False
    field, convert = VALUES[name]
    try:
        found[field] = convert(value)
    except ValueError:
        return False
    return True
