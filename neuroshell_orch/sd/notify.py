"""Readiness, status, reload, stop and watchdog messages to the service manager.

Owns NOTIFY_SOCKET and WATCHDOG_*: both are taken out of the environment on first use, so that no worker ever sees
them. Must not know what is being reported. Without a manager everything here does nothing.
"""

from __future__ import annotations

import os
import time

import sdnotify


class Notifier:
    """The one connection to the manager that started us. Make it early, before any child process."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier() if os.environ.get("NOTIFY_SOCKET") else None
        os.environ.pop("NOTIFY_SOCKET", None)
        self._status = ""

    @property
    def active(self) -> bool:
        """Whether a manager listens."""
        return self._notifier is not None and self._notifier.socket is not None

    def ready(self) -> None:
        """Start-up or a reload is over."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """The one line of ``systemctl status``. Sent only when it changed."""
        line = " ".join(text.splitlines())
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def reloading(self) -> None:
        """A reload begins; end it with ready(). The clock reading is what Type=notify-reload asks for."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={usec}")

    def stopping(self) -> None:
        """We accept nothing more: a connection from now on is for the next process."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """We are alive. Only to be sent after a message went round the engine's inbox."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the connection; every method does nothing from now on."""
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.close()
        self._notifier = None

    def _send(self, state: str) -> None:
        if self._notifier is not None:
            # The library encodes latin-1 and swallows what does not fit; systemd wants UTF-8: hand it those bytes.
            self._notifier.notify(state.encode().decode("latin-1"))


def watchdog_interval() -> float | None:
    """Seconds between two pings: half of what the manager allows; None where it does not watch this process.

    Takes WATCHDOG_* out of the environment, so only the first call can answer.
    """
    usec, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2 / 1_000_000
