"""``nsorch serve``: the daemon in the foreground, as the unit starts it and as a developer does.

Owns nothing but the call; what the daemon does, it decides itself.
"""

from __future__ import annotations


def serve() -> int:
    """Run the service in the foreground, on the socket that systemd passed or on one of its own."""
    from neuroshell_orch import start

    return start.main()


def __getattr__(name: str) -> object:
    """The Typer application, made only when the parser asks for it: the unit's own start needs no parser."""
    if name != "app":
        raise AttributeError(name)
    from neuroshell_orch.cli.root import new_app

    app = new_app()
    app.command()(serve)
    return app
