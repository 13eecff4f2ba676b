"""The tokens of the loopback port: who may call it, for which models, until when.

Owns the file ``tokens.json`` in the state folder, which holds hashes and never a token, and the file beside it that
says when each was last used. The command line writes the one, also while the daemon sleeps, and the daemon only the
other, so neither can undo what the other wrote. A token is 256 random bits, so a plain SHA-256 of it tells nothing.
Must not know HTTP, nor what a token's models are asked for.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import hmac
import os
import secrets
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.config.kinds import NAME_FORMS, is_name
from neuroshell_orch.config.paths import state_dir
from neuroshell_orch.config.write import write_file
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PREFIX: Final = "nsorch_"
"""So that whoever finds one in a file knows what it is."""
USED_EVERY: Final = 60.0
"""Seconds: the last use is written no more often."""


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One token. ``models`` None: every model, and control of the service as well. Times are Unix seconds."""

    name: str
    hash: str
    created: float
    expires: float | None = None
    models: list[str] | None = None

    def expired(self, now: float) -> bool:
        """Whether its time is over."""
        return self.expires is not None and now >= self.expires


class _File(msgspec.Struct, frozen=True):
    tokens: list[Token] = []


def path() -> Path:
    """The file of the tokens."""
    return state_dir() / "tokens.json"


def used_path() -> Path:
    """The file of their last uses."""
    return state_dir() / "tokens-used.json"


def read() -> list[Token]:
    """All tokens, also expired ones. Raises OrchError where the file cannot be read."""
    try:
        return msgspec.json.decode(path().read_bytes(), type=_File).tokens
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is damaged"
        hint = "Delete it, and make the tokens anew: nsorch token create NAME"
        raise OrchError("config-invalid", f"{path()} cannot be read: {why}.", hint) from error


def last_used() -> dict[str, float]:
    """When each token was last used, by its hash. Losing it harms nobody."""
    try:
        return msgspec.json.decode(used_path().read_bytes(), type=dict[str, float])
    except (OSError, msgspec.MsgspecError):
        return {}


def create(name: str, models: Sequence[str] | None, seconds: float | None) -> str:
    """Make a token and return it: it is not to be had again. Raises OrchError."""
    for given in (name, *(models or ())):
        if not is_name(given):
            raise OrchError("bad-request", f"{given[:80]!r} cannot be a name.", f"Use {NAME_FORMS}.")
    secret = PREFIX + secrets.token_urlsafe(32)
    now = time.time()
    expires = None if seconds is None else now + seconds
    with _writing() as tokens:
        if any(token.name == name for token in tokens):
            hint = f"Revoke it first: nsorch token revoke {name}"
            raise OrchError("token-exists", f"There is a token {name} already.", hint)
        tokens.append(Token(name, _hash(secret), now, expires, sorted(set(models)) if models is not None else None))
    return secret


def revoke(name: str) -> None:
    """Take a token back; the next request with it is refused. Raises OrchError where there is none of that name."""
    with _writing() as tokens:
        kept = [token for token in tokens if token.name != name]
        if len(kept) == len(tokens):
            raise OrchError("not-found", f"There is no token {name[:80]!r}.", "See: nsorch token list")
        tokens[:] = kept


@contextmanager
def _writing() -> Iterator[list[Token]]:
    """The tokens, to be changed; nobody else changes them meanwhile. Not written where an error is raised."""
    folder = path().parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "tokens.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise OrchError("write-failed", f"{folder} cannot be written: {error.strerror}.", "") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tokens = read()
        yield tokens
        write_file(path(), msgspec.json.encode(_File(tokens)).decode() + "\n", mode=0o600)
    finally:
        os.close(lock)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Tokens:
    """The tokens as the daemon sees them: read anew when the file is another one."""

    def __init__(self) -> None:
        self._stamp: tuple[int, int, int] | None = None
        self._tokens: list[Token] = []
        self._used: dict[str, float] = {}
        self._written: dict[str, float] = {}
        self._saving: asyncio.Future[None] | None = None

    @property
    def any(self) -> bool:
        """Whether there is any."""
        self._refresh()
        return bool(self._tokens)

    def find(self, secret: str) -> Token | None:
        """The token whose secret this is, expired or not. Takes as long whichever it is. Raises OrchError."""
        self._refresh()
        given, found = _hash(secret), None
        for token in self._tokens:
            if hmac.compare_digest(token.hash, given):
                found = token
        return found

    def note_use(self, token: Token) -> None:
        """It was used now; written beside, and not each time."""
        now = time.time()
        self._used[token.hash] = now
        if now - self._written.get(token.hash, 0.0) >= USED_EVERY and (self._saving is None or self._saving.done()):
            self._written[token.hash] = now
            known = {each.hash for each in self._tokens}
            used = {key: at for key, at in (last_used() | self._used).items() if key in known}
            self._saving = asyncio.get_running_loop().run_in_executor(None, _save_used, used)

    def _refresh(self) -> None:
        try:
            facts = path().stat()
        except OSError:
            self._stamp, self._tokens = None, []
            return
        stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if stamp != self._stamp:
            self._tokens = []  # a file that cannot be read lets nobody in
            self._tokens = read()
            self._stamp = stamp


def _save_used(used: dict[str, float]) -> None:
    try:
        write_file(used_path(), msgspec.json.encode(used).decode() + "\n", mode=0o600)
    except OrchError:
        return  # a full disk is no reason to refuse a token
