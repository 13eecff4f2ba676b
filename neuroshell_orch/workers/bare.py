"""Child processes, started with nothing but ``os``.

Owns the one call that starts them; ``spawn`` watches them, and the daemon's first moments use it before there is an
event loop. Must be called from the thread that lives as long as the daemon does, to which a worker ties itself.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from neuroshell_orch.workers.environment import COMMAND, PARENT, worker_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_OUTPUT: Final = 2


def child_process(command: Sequence[str], stdin: int, environment: Mapping[str, str]) -> int:
    """Start ``command`` with the descriptor ``stdin`` as its standard input; its process id. Raises OSError.

    It has no other descriptor but our output, and a session of its own: Ctrl-C in the terminal of `nsorch ask` is for
    the daemon to handle.
    """
    actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, stdin, 0)]
    actions += [(os.POSIX_SPAWN_CLOSE, number) for number in _inheritable()]
    signals = [signal.SIGPIPE, signal.SIGXFSZ]
    return os.posix_spawn(command[0], list(command), environment, file_actions=actions, setsid=True, setsigdef=signals)


def _inheritable() -> list[int]:
    """Descriptors that whoever started us left open; Python's own are not passed on."""
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            if number > _OUTPUT and os.get_inheritable(number):
                found.append(number)
    return found


def worker_process(stdin: int, extra: Mapping[str, str]) -> int:
    """Start a worker that ends with this process. Raises OSError."""
    return child_process(COMMAND, stdin, worker_environment(os.environ, {PARENT: str(os.getpid()), **extra}))
