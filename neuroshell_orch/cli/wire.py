"""Typed answers of the daemon, for the commands that render them.

Owns the step from JSON to the API's types, and what is said when the daemon is of another version. Imports msgspec:
not for ``ask``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from neuroshell_orch.client import Client

T = TypeVar("T")


def get(client: Client, path: str, kind: type[T]) -> T:
    """The answer to a GET, as ``kind``."""
    return convert(client.call("GET", path), kind)


def convert(data: object, kind: type[T]) -> T:
    """``data`` as ``kind``. Raises OrchError where the daemon speaks another version of the API."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        hint = "It is of another version: systemctl --user restart nsorch.service"
        raise OrchError("internal", f"The service answered what this program does not know: {error}.", hint) from error


def plain(data: object) -> object:
    """``data`` as dictionaries and lists."""
    return msgspec.to_builtins(data)
