"""One INI file, read the way systemd reads its own: bytes to assignments that know their file and line.

Owns the syntax (sections, ``Key=Value``, comments, continuation lines) and what can be wrong with a file as such.
Nothing here raises: every problem is a Finding, and the rest of the file still counts. Must not know which sections
or keys exist, nor which file masks which.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final, Literal

import msgspec

from neuroshell_orch import regular

MAX_FILE: Final = 1 << 20
"""Bytes. A configuration file that is longer is something else."""

_DEV_NULL: Final = os.makedev(1, 3)
_CONTROL: Final = frozenset(map(chr, (*range(32), *range(127, 160)))) - {"\t"}


def place(path: str, line: int) -> str:
    """``file:line``, safe to print whatever bytes the name holds; line 0 is the file as a whole."""
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    if not name.isprintable():
        name = repr(name)[1:-1]
    return f"{name}:{line}" if line else name


class Finding(msgspec.Struct, frozen=True):
    """Something wrong in the configuration. ``line`` 0 means the file as a whole."""

    severity: Literal["error", "warning"]
    path: str
    line: int
    message: str

    @property
    def where(self) -> str:
        """``file:line``, safe to print whatever bytes the name holds."""
        return place(self.path, self.line)

    def __str__(self) -> str:
        return f"{self.where}: {self.severity}: {self.message}"


class Assignment(msgspec.Struct, frozen=True):
    """One ``Key=Value``; an empty value asks for a reset."""

    section: str
    key: str
    value: str
    path: str
    line: int

    @property
    def where(self) -> str:
        """``file:line``, safe to print whatever bytes the name holds."""
        return place(self.path, self.line)


class Parsed(msgspec.Struct, frozen=True):
    """What one file holds. ``masked``: it is empty or ``/dev/null``, which hides files of the same name before it."""

    assignments: list[Assignment] = []
    findings: list[Finding] = []
    masked: bool = False
    text: str = ""


_MASK: Final = Parsed(masked=True)


def _unusable(path: str, message: str) -> Parsed:
    return Parsed(findings=[Finding("error", path, 0, message)])


def parse_file(path: str) -> Parsed:
    """Read and parse the file at ``path``. A file that has just vanished counts as empty."""
    try:
        content = _read(path)
    except FileNotFoundError:
        if os.path.islink(path):  # noqa: PTH114 - paths are str here, it is on the way to the first token
            return _unusable(path, "it is a link to a file that does not exist")
        return _MASK
    except OSError as error:
        if error.errno == errno.ELOOP:
            return _unusable(path, "it is a link that leads in a circle")
        return _unusable(path, f"it cannot be read: {error.strerror}")
    if isinstance(content, str):
        return _unusable(path, content)
    if not content:
        return _MASK
    return parse_bytes(content, path)


def _read(path: str) -> bytes | str:
    """The bytes of the file, or the sentence that says why they are not worth having."""
    try:
        return regular.read_file(path, MAX_FILE)
    except regular.NotRegularError as error:
        found = error.facts
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == _DEV_NULL:
            return b""
        return "it is a folder, not a file" if stat.S_ISDIR(found.st_mode) else "it is not a regular file"
    except regular.TooLargeError:
        return f"it is larger than {MAX_FILE >> 20} MiB, which no configuration file needs to be"


def parse_bytes(content: bytes, path: str) -> Parsed:
    """Parse the bytes of a file; anything but UTF-8 text is a finding with its line."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"byte 0x{content[error.start]:02x} is not UTF-8 text"
        return Parsed(findings=[Finding("error", path, line, message)], text=content.decode("utf-8", "replace"))
    return parse_text(text, path)


def parse_text(text: str, path: str) -> Parsed:
    """Parse INI text; ``path`` is only for the findings."""
    assignments: list[Assignment] = []
    findings: list[Finding] = []
    section = ""
    for number, line in _logical_lines(text):
        problem = ""
        if not line.isprintable() and not _CONTROL.isdisjoint(line):
            problem = "the line holds a control character"
        elif line[0] == "[":
            if line[-1] == "]" and line[1:-1].strip() and "[" not in line[1:-1] and "]" not in line[1:-1]:
                section = line[1:-1].strip()
                continue
            problem = f"{_short(line)} is not a section: expected [Name] on a line of its own"
        else:
            key, equals, value = line.partition("=")
            key = key.rstrip()
            if not equals or not key:
                problem = f"{_short(line)} is not an assignment: expected Key=Value"
            elif not section:
                problem = f"{_short(key)}= stands before the first [Section]"
            else:
                assignments.append(Assignment(section, key, value.strip(), path, number))
                continue
        findings.append(Finding("error", path, number, problem))
    return Parsed(assignments, findings, text=text)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines with their numbers, stripped, without comments and blank ones, continuations joined by a space."""
    lines: list[tuple[int, str]] = []
    pending = ""
    start = 0
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if line.startswith(("#", ";")) or (not line and not pending):
            continue
        if not pending:
            start = number
        if line.endswith("\\"):
            pending += line[:-1].rstrip() + " "
            continue
        whole = (pending + line).strip()
        pending = ""
        if whole:
            lines.append((start, whole))
    if pending.strip():
        lines.append((start, pending.strip()))
    return lines
