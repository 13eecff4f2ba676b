"""Values as systemd writes them: time spans, sizes, percentages and truth, from text and back to it.

Owns the grammar of a single value. Every parser returns the value or raises ValueError with a sentence that names
the allowed forms. Works in whole microseconds and bytes, so that ``parse(format(x)) == x`` holds exactly. Must not
know about keys, files or what a value is for.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

UNLIMITED: Final = 2**64 - 1
"""The size that ``infinity`` stands for, as in systemd."""

_SECOND: Final = 1_000_000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_UNIT_NAMES: Final[dict[int, str]] = {
    1: "us usec µs μs",
    1000: "ms msec",
    _SECOND: "s sec second seconds",
    _MINUTE: "m min minute minutes",
    _HOUR: "h hr hour hours",
    _DAY: "d day days",
    7 * _DAY: "w week weeks",
    2_629_800 * _SECOND: "M month months",
    31_557_600 * _SECOND: "y year years",
}
_UNITS: Final = {name: size for size, names in _UNIT_NAMES.items() for name in names.split()}
_SHOWN: Final = ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (_SECOND, "s"), (1000, "ms"), (1, "us"))
_SIZES: Final = {"": 0, "B": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
_DIGITS: Final = frozenset("0123456789")
_MAX_DIGITS: Final = 20

TIMESPAN_FORMS: Final = "a number of seconds, a time span such as 500ms, 30s, 5min, 1h 30min or 2d, or infinity"
SIZE_FORMS: Final = "a number of bytes, a size such as 512K, 300M, 2G or 1.5T (base 1024), or infinity"
BOOL_FORMS: Final = "yes, true, on or 1; no, false, off or 0"
_WORDS: Final = dict.fromkeys(("1", "yes", "y", "true", "t", "on"), True) | dict.fromkeys(
    ("0", "no", "n", "false", "f", "off"), False
)


class Percent(NamedTuple):
    """A share of the machine's memory, in hundredths of a percent."""

    hundredths: int

    def of(self, total: int) -> int:
        """This share of ``total``, rounded down."""
        return total * self.hundredths // 10_000


def _refuse(text: str, allowed: str) -> ValueError:
    shown = text if len(text) <= 60 else text[:57] + "…"
    return ValueError(f"{shown!r} is not valid here: expected {allowed}")


def _number(text: str, start: int) -> tuple[int, int, int]:
    """The decimal number at ``start`` as (digits without the point, how many came after it, where it ends)."""
    end = start
    while end < len(text) and text[end] in _DIGITS:
        end += 1
    whole = text[start:end]
    fraction = ""
    if whole and end < len(text) and text[end] == ".":
        begin = end = end + 1
        while end < len(text) and text[end] in _DIGITS:
            end += 1
        fraction = text[begin:end]
        if not fraction:
            raise ValueError
    if not whole or len(whole) + len(fraction) > _MAX_DIGITS:
        raise ValueError
    return int(whole + fraction), len(fraction), end


def _microseconds(text: str) -> int:
    total = position = 0
    while position < len(text):
        digits, places, position = _number(text, position)
        rest = text[position:].lstrip()
        length = next((i for i, char in enumerate(rest) if char in _DIGITS or char.isspace()), len(rest))
        total += digits * _UNITS[rest[:length] or "s"] // 10**places
        rest = rest[length:].lstrip()
        position = len(text) - len(rest)
    return total


def parse_timespan(text: str) -> float:
    """Seconds of a systemd time span: ``5min``, ``1h 30s``, ``infinity``; a number without a unit is seconds."""
    text = text.strip()
    if text == "infinity":
        return math.inf
    try:
        total = _microseconds(text)
    except (ValueError, KeyError):
        raise _refuse(text, TIMESPAN_FORMS) from None
    if not text or total >= UNLIMITED:
        raise _refuse(text, TIMESPAN_FORMS)
    return total / _SECOND


def format_timespan(seconds: float) -> str:
    """``seconds`` (0 or more) as a time span, to the microsecond: ``1h 30min``."""
    if math.isinf(seconds):
        return "infinity"
    rest = round(seconds * _SECOND)
    parts: list[str] = []
    for size, unit in _SHOWN:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts) or "0"


def parse_size(text: str) -> int:
    """Bytes of a size: ``300M``, ``1.5G`` (base 1024), a plain number, or ``infinity`` (UNLIMITED)."""
    text = text.strip()
    if text == "infinity":
        return UNLIMITED
    try:
        digits, places, end = _number(text, 0)
        size = (digits << _SIZES[text[end:].lstrip()]) // int(10**places)
    except (ValueError, KeyError):
        raise _refuse(text, SIZE_FORMS) from None
    if size >= UNLIMITED:
        raise _refuse(text, SIZE_FORMS)
    return size


def format_size(size: int) -> str:
    """``size`` bytes with the largest unit that says it exactly: ``1536M``."""
    if size >= UNLIMITED:
        return "infinity"
    for unit in "EPTGMK":
        if size and not size % (1 << _SIZES[unit]):
            return f"{size >> _SIZES[unit]}{unit}"
    return str(size)


def parse_size_or_percent(text: str) -> int | Percent:
    """A size as in ``parse_size``, or a share of the machine's memory such as ``50%``."""
    text = text.strip()
    allowed = SIZE_FORMS.replace(", or", ", a share of memory such as 50%, or")
    try:
        if not text.endswith("%"):
            return parse_size(text)
        digits, places, end = _number(text[:-1].rstrip(), 0)
    except ValueError:
        raise _refuse(text, allowed) from None
    hundredths, rest = divmod(digits * 100, 10**places)
    if end != len(text[:-1].rstrip()) or rest or not 0 < hundredths <= 10_000:
        raise _refuse(text, f"{allowed}; a share lies between 0.01% and 100%")
    return Percent(hundredths)


def format_size_or_percent(value: int | Percent) -> str:
    """The text that ``parse_size_or_percent`` reads back as ``value``."""
    if isinstance(value, Percent):
        whole, rest = divmod(value.hundredths, 100)
        return f"{whole}.{rest:02}".rstrip("0").rstrip(".") + "%" if rest else f"{whole}%"
    return format_size(value)


def parse_bool(text: str) -> bool:
    """Systemd's words for truth, in any case."""
    try:
        return _WORDS[text.strip().lower()]
    except KeyError:
        raise _refuse(text.strip(), BOOL_FORMS) from None


def format_bool(value: bool) -> str:
    """``yes`` or ``no``."""
    return "yes" if value else "no"
