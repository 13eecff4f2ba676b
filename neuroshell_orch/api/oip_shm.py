"""System shared memory of the Open Inference Protocol: regions that a client registered, and reads and writes in them.

Owns the open descriptors and every check: a region is a regular file of this user directly in /dev/shm, and its size
is looked at again at every use, because its client can change it at any time. Contents are copied with pread and
pwrite and never mapped: a client that shrinks its region gets an error, and the daemon no SIGBUS. Large copies are made
in threads, so a lock keeps a descriptor from being closed, and its number reused, under one. Must not know what the
bytes mean.
"""

from __future__ import annotations

import os
import stat
import threading
from typing import Any, Final

import msgspec

from neuroshell_orch.errors import OrchError

FOLDER: Final = "/dev/shm"  # noqa: S108 - this is where shm_open puts them
MAX_REGIONS: Final = 128
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Region(msgspec.Struct, frozen=True):
    """A registered part of a shared memory object."""

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: int

    def shown(self) -> dict[str, Any]:
        """As the protocol lists it."""
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.byte_size}


class Regions:
    """The regions by name. They end with the daemon, or when they are unregistered."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}
        self._in_use = threading.Lock()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open the object ``key``. Raises OrchError."""
        if name in self._regions:
            hint = "Unregister it first."
            raise OrchError("bad-request", f"The shared memory region {name[:80]!r} is registered already.", hint)
        if len(self._regions) >= MAX_REGIONS:
            raise OrchError("queue-full", f"{MAX_REGIONS} shared memory regions are registered.", "Unregister some.")
        if offset < 0 or byte_size <= 0:
            message = f"The shared memory region {name[:80]!r} has a negative offset or no size."
            raise OrchError("bad-request", message, "")
        descriptor = _open(key)
        region = Region(name, key, offset, byte_size, descriptor)
        try:
            _require_size(region)
        except OrchError:
            os.close(descriptor)
            raise
        self._regions[name] = region

    def unregister(self, name: str | None = None) -> None:
        """Forget one region, or all of them. One that is not registered is no error: it is what was wanted."""
        for gone in [name] if name is not None else list(self._regions):
            region = self._regions.pop(gone, None)
            if region is not None:
                with self._in_use:
                    os.close(region.descriptor)

    def shown(self, name: str | None = None) -> list[dict[str, Any]]:
        """One region, or all, as the protocol lists them. Raises OrchError."""
        return [region.shown() for region in ([self._get(name)] if name is not None else self._regions.values())]

    def check(self, name: str, offset: int, size: int) -> None:
        """Raise OrchError unless ``size`` bytes at ``offset`` lie inside the region and the region is there."""
        region = self._get(name)
        if offset < 0 or size < 0 or offset + size > region.byte_size:
            message = f"{size} bytes at {offset} do not lie in the shared memory region {name[:80]!r}"
            raise OrchError("bad-request", f"{message}, which has {region.byte_size} bytes.", "")
        _require_size(region)

    def read(self, name: str, offset: int, size: int) -> bytearray:
        """A copy of what stands there. Raises OrchError."""
        with self._in_use:
            self.check(name, offset, size)
            region = self._get(name)
            content = bytearray(size)
            view, at = memoryview(content), region.offset + offset
            while view:
                count = os.preadv(region.descriptor, [view], at)
                if not count:
                    raise _shrunk(region)
                view, at = view[count:], at + count
            return content

    def write(self, name: str, offset: int, data: bytes | memoryview) -> None:
        """Copy ``data`` there. Raises OrchError."""
        view = memoryview(data)
        try:
            with self._in_use:
                self.check(name, offset, len(view))
                region = self._get(name)
                at = region.offset + offset
                while view:
                    count = os.pwrite(region.descriptor, view, at)
                    view, at = view[count:], at + count
        except OSError as error:
            message = f"The shared memory region {name[:80]!r} cannot be written: {error.strerror}."
            raise OrchError("no-space", message, "Free some of /dev/shm.") from error

    def _get(self, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            message = f"There is no shared memory region {name[:80]!r}."
            raise OrchError("not-found", message, "Register it; regions end with the service, which leaves when idle.")
        return region


def _open(key: str) -> int:
    what = f"The shared memory key {key[:80]!r}"
    leaf = key.removeprefix("/")
    if not leaf or "/" in leaf or "\0" in leaf or leaf in {".", ".."} or len(os.fsencode(leaf)) > 255:
        raise OrchError("bad-request", f"{what} is not the name of a shared memory object.", "Use a name like /name.")
    try:
        descriptor = os.open(f"{FOLDER}/{leaf}", _FLAGS)
    except FileNotFoundError:
        raise OrchError(
            "not-found", f"{what} names no shared memory object.", "Make it before it is registered."
        ) from None
    except OSError as error:
        raise OrchError("not-allowed", f"{what} cannot be opened: {error.strerror}.", "It must be yours.") from None
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
        os.close(descriptor)
        raise OrchError("not-allowed", f"{what} is not a shared memory object of this user.", "It must be yours.")
    return descriptor


def _require_size(region: Region) -> None:
    if os.fstat(region.descriptor).st_size < region.offset + region.byte_size:
        raise _shrunk(region)


def _shrunk(region: Region) -> OrchError:
    message = f"The shared memory object {region.key[:80]!r} is smaller than the region {region.name[:80]!r}"
    needed = region.offset + region.byte_size
    return OrchError("bad-request", f"{message}, which needs {needed} bytes.", "Make it larger, or register less.")
