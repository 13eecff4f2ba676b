"""The kinds of value a key can have: how each is read, written back and described.

Owns the step from a text to a typed, bounded value. Every ``parse`` raises ValueError with a sentence that names the
allowed forms. Must not know the keys that use a kind.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from neuroshell_orch.config import paths, values

if TYPE_CHECKING:
    from collections.abc import Callable

NAME_FORMS: Final = "1 to 64 of a-z, 0-9, dot, dash and underscore, the first one a letter or a digit"
_NAME_FIRST: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_NAME_REST: Final = _NAME_FIRST | frozenset("._-")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._\[\]:-]+", re.ASCII)
_HEX: Final = frozenset("0123456789abcdef")


class Kind(NamedTuple):
    """How a value is read (``parse``), written back (``show``) and described (``allowed``)."""

    parse: Callable[[str], Any]
    show: Callable[[Any], str]
    allowed: str


class Key(NamedTuple):
    """What the schema says about a key beside its type and default."""

    kind: Kind
    help: str
    required: bool = False
    name: str = ""
    """Where the key is not the CamelCase of the field's name."""


def is_name(text: str) -> bool:
    """Whether ``text`` can name a model or a mode."""
    return 0 < len(text) <= 64 and text[0] in _NAME_FIRST and _NAME_REST.issuperset(text)


def _refuse(text: str, allowed: str) -> ValueError:
    return ValueError(f"{text if len(text) <= 60 else text[:57] + '…'!r} is not valid here: expected {allowed}")


def _name(text: str) -> str:
    if not is_name(text):
        raise _refuse(text, NAME_FORMS)
    return text


def _path(text: str) -> str:
    if text.startswith("~/"):
        text = f"{paths.home()}/{text[2:]}"
    if not text.startswith("/"):
        raise _refuse(text, PATH.allowed)
    return text


def _digest(text: str) -> str:
    digits = text.removeprefix("sha256:").lower()
    if len(digits) != 64 or not _HEX.issuperset(digits):
        raise _refuse(text, DIGEST.allowed)
    return f"sha256:{digits}"


def choice(*words: str) -> Kind:
    """One of ``words``, written as they are."""
    allowed = f"one of {', '.join(words)}"

    def parse(text: str) -> str:
        if text not in words:
            raise _refuse(text, allowed)
        return text

    return Kind(parse, str, allowed)


def whole(minimum: int, maximum: int) -> Kind:
    """A whole number from ``minimum`` to ``maximum``."""
    allowed = f"a whole number from {minimum} to {maximum}"

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and minimum <= int(text) <= maximum):
            raise _refuse(text, allowed)
        return int(text)

    return Kind(parse, str, allowed)


def _origins(text: str) -> tuple[str, ...]:
    found = tuple(text.split())
    for origin in found:
        if _ORIGIN.fullmatch(origin) is None:
            raise _refuse(origin, ORIGINS.allowed)
    return found


def _positive_span(text: str) -> float:
    seconds = values.parse_timespan(text)
    if not seconds:
        raise ValueError(f"{text!r} is not valid here: expected {POSITIVE_SPAN.allowed}")
    return seconds


def _memory(text: str) -> int | values.Percent:
    limit = values.parse_size_or_percent(text)
    if not limit:
        raise ValueError(f"{text!r} is not valid here: expected {MEMORY.allowed}")
    return limit


def _size(text: str) -> int:
    size = values.parse_size(text)
    if not size:
        raise ValueError(f"{text!r} is not valid here: expected {SIZE.allowed}")
    return size


TEXT: Final = Kind(str, str, "any text on one line")
NAME: Final = Kind(_name, str, NAME_FORMS)
PATH: Final = Kind(_path, str, "an absolute path, or one that starts with ~/")
DIGEST: Final = Kind(_digest, str, "sha256: and 64 hexadecimal digits")
ORIGINS: Final = Kind(_origins, " ".join, "origins such as https://app.example, with spaces between them")
BOOL: Final = Kind(values.parse_bool, values.format_bool, values.BOOL_FORMS)
SPAN: Final = Kind(values.parse_timespan, values.format_timespan, values.TIMESPAN_FORMS)
POSITIVE_SPAN: Final = Kind(_positive_span, values.format_timespan, f"{values.TIMESPAN_FORMS}; more than 0")
SIZE: Final = Kind(_size, values.format_size, f"{values.SIZE_FORMS}; more than 0")
MEMORY: Final = Kind(
    _memory,
    values.format_size_or_percent,
    "more than 0 bytes as a size such as 300M or 2G (base 1024), a share of memory such as 50%, or infinity",
)
