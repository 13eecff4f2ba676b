"""Opening a file that nobody vouches for: whatever the name stands for, it neither blocks nor acts.

Owns the one way in: a look before it is opened (opening a device can do something), not blocking (the name may have
become a pipe since), a second look at what was opened, and a bound on what is read. Links are followed. Its errors are
OSErrors that say what was found; the sentence for a person is the caller's, and so is what the content means. Imports
almost nothing: configuration is read through it, on the way to the first token.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class NotRegularError(OSError):
    """A folder, a pipe, a socket or a device; ``facts`` tells which."""

    def __init__(self, facts: os.stat_result) -> None:
        super().__init__(errno.EINVAL, "Not a regular file")
        self.facts = facts


class TooLargeError(OSError):
    """More bytes than were wanted."""

    def __init__(self) -> None:
        super().__init__(errno.EFBIG, os.strerror(errno.EFBIG))


def open_file(path: str | os.PathLike[str]) -> tuple[int, os.stat_result]:
    """A descriptor of a regular file, and what it is. Raises OSError, NotRegularError among them."""
    facts = os.stat(path)  # noqa: PTH116 - it may be a str, and pathlib is not needed for it
    if not stat.S_ISREG(facts.st_mode):
        raise NotRegularError(facts)
    descriptor = os.open(path, _FLAGS)
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise NotRegularError(facts)
    return descriptor, facts


def read_file(path: str | os.PathLike[str], most: int) -> bytes:
    """All the bytes, at most so many. Raises OSError, NotRegularError and TooLargeError among them."""
    descriptor, facts = open_file(path)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        if facts.st_size > most:
            raise TooLargeError
        content = bytearray()  # the size may have been a lie: a file can grow, and those of the kernel have none
        while chunk := file.read(most + 1 - len(content)):
            content += chunk
    if len(content) > most:
        raise TooLargeError
    return bytes(content)
