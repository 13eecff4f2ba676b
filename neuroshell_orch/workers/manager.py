"""The few words of the user's systemd that a launcher needs, over the session bus.

Owns the connection and the matching of signals to the units that are waited for. Low-level messages on purpose:
introspection would cost more than the start of a worker. Must not know what a worker is.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.errors import InvalidAddressError

from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Reply: TypeAlias = Any
"""What D-Bus returns depends on the call."""

_SYSTEMD: Final = "org.freedesktop.systemd1"
_MANAGER: Final = "org.freedesktop.systemd1.Manager"
_PATH: Final = "/org/freedesktop/systemd1"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_TIMEOUT: Final = 10.0


def _address() -> str:
    """Where the session bus is. Unlike the library's own search, never by asking an X server."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return os.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={runtime}/bus"


class BusError(Exception):
    """An error reply: ``name`` is the D-Bus error's, ``text`` its sentence."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text


class Listener(NamedTuple):
    """Whoever wants the results of jobs on ``unit`` and the changed properties of its object at ``path``."""

    unit: str
    path: str
    job: Callable[[str], None]
    change: Callable[[dict[str, Any]], None]


class Manager:
    """A connection to ``systemd --user``."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._listeners: set[Listener] = set()
        bus.add_message_handler(self._heard)

    @classmethod
    async def connect(cls) -> Manager:
        """Connect and subscribe. Raises OrchError ``service-unreachable`` where there is no user manager."""
        try:
            bus = MessageBus(bus_address=_address(), negotiate_unix_fd=True)
        except InvalidAddressError as error:
            raise OrchError(
                "service-unreachable",
                f"The address of the session bus is not one: {error}.",
                "Correct DBUS_SESSION_BUS_ADDRESS, or let workers be child processes.",
            ) from error
        try:
            async with asyncio.timeout(_TIMEOUT):
                await bus.connect()
                manager = cls(bus)
                for kind, member in ((_MANAGER, "JobRemoved"), (_PROPERTIES, "PropertiesChanged")):
                    rule = f"type='signal',sender='{_SYSTEMD}',interface='{kind}',member='{member}'"
                    await manager._bus_call("AddMatch", "s", [rule])
                await manager.call("Subscribe")
        except (OSError, EOFError, TimeoutError, ValueError, BusError) as error:
            if bus.connected:
                bus.disconnect()
            raise OrchError(
                "service-unreachable",
                f"There is no systemd user manager to be reached: {type(error).__name__}: {error}.",
                "Log in with a systemd session, or let workers be child processes.",
            ) from error
        return manager

    @property
    def connected(self) -> bool:
        """Whether the bus is still there."""
        return bool(self._bus.connected)

    async def call(self, member: str, signature: str = "", body: Sequence[Any] = (), fds: Sequence[int] = ()) -> Reply:
        """Call a method of the manager; its first result. Raises BusError."""
        message = Message(
            destination=_SYSTEMD,
            path=_PATH,
            interface=_MANAGER,
            member=member,
            signature=signature,
            body=list(body),
            unix_fds=list(fds),
        )
        return await self._reply(message)

    async def properties(self, path: str, interface: str) -> dict[str, Any]:
        """All properties of one object. Raises BusError."""
        message = Message(
            destination=_SYSTEMD, path=path, interface=_PROPERTIES, member="GetAll", signature="s", body=[interface]
        )
        values = await self._reply(message)
        return {name: value.value for name, value in values.items()}

    def watch(self, listener: Listener) -> None:
        """Tell ``listener`` about its unit from now on. Several may listen to one unit."""
        self._listeners.add(listener)

    def unwatch(self, listener: Listener) -> None:
        """Tell it nothing any more."""
        self._listeners.discard(listener)

    def close(self) -> None:
        """Disconnect."""
        if self._bus.connected:
            self._bus.disconnect()

    async def _bus_call(self, member: str, signature: str, body: list[Any]) -> None:
        await self._reply(
            Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member=member,
                signature=signature,
                body=body,
            )
        )

    async def _reply(self, message: Message) -> Reply:
        async with asyncio.timeout(_TIMEOUT):
            reply = await self._bus.call(message)
        if reply.message_type is MessageType.ERROR:
            raise BusError(reply.error_name or "", str(reply.body[0]) if reply.body else "")
        return reply.body[0] if reply.body else None

    def _heard(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.member == "JobRemoved" and message.interface == _MANAGER:
            _number, _job, unit, result = message.body
            for listener in [one for one in self._listeners if one.unit == unit]:
                listener.job(result)
        elif message.member == "PropertiesChanged":
            values: dict[str, Variant] = message.body[1]
            for listener in [one for one in self._listeners if one.path == message.path]:
                listener.change({name: value.value for name, value in values.items()})
