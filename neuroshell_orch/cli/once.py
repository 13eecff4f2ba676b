"""The child side of ``private``: a daemon on the socket that it was handed, which ends with its parent.

Owns how a plain child process is made to look activated: the socket as descriptor 3, LISTEN_* for its own pid, a
runtime folder of its own. Must not know why it was started. Run as ``python -m neuroshell_orch.cli.once SOCKET PIPE
FOLDER``; ``nsorch serve`` is the one for people.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from typing import Final

FIRST: Final = 3
"""The descriptor that the activation protocol begins with."""


def main() -> int:
    """Serve until the parent's pipe ends or SIGTERM comes; the folder is gone afterwards."""
    listener, parent, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    parent = fcntl.fcntl(parent, fcntl.F_DUPFD_CLOEXEC, 10)
    if listener != FIRST:
        os.dup2(listener, FIRST)
        os.close(listener)
    if int(sys.argv[2]) != FIRST:
        os.close(int(sys.argv[2]))
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "MANAGERPID"):
        os.environ.pop(name, None)
    # A bus that is not there: workers bound to the real service's unit could not start, so they are our children.
    os.environ.update(XDG_RUNTIME_DIR=folder, DBUS_SESSION_BUS_ADDRESS=f"unix:path={folder}/no-bus")
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="api")
    from neuroshell_orch import start

    try:
        return start.main(parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
