"""``nsorch status``: the service in one look.

Owns its lines. While the daemon sleeps it says so, and the daemon sleeps on.
"""

from __future__ import annotations

from typing import Annotated

import typer

from neuroshell_orch.cli.root import new_app

app = new_app()


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the service in one look."""
    from neuroshell_orch.api.schema import Status
    from neuroshell_orch.cli import local, output, wire

    client = local.running()
    found = wire.get(client, "/orch/status", Status) if client else local.status()
    if as_json:
        output.print_json({"running": client is not None} | dict(wire.plain(found)))  # type: ignore[call-overload]
        return
    asleep = "asleep; the next ask wakes it"
    lines = [("service", f"running since {output.ago(found.started)}, pid {found.pid}" if client else asleep)]
    if found.unit:
        lines.append(("unit", found.unit))
    lines += [("version", found.version), ("mode", found.mode), ("default model", found.default_model or "none")]
    if found.launcher:
        lines.append(("workers", "systemd services" if found.launcher == "systemd" else "child processes"))
    warm = [model for model in found.models if model.warmth != "COLD"]
    memory = sum(model.memory.pss for model in found.models if model.memory)
    lines.append(("models", f"{len(found.models)} registered, {len(warm)} warm"))
    lines.append(("memory", f"{output.size(memory)} in workers"))
    lines += [("warning", text) for text in found.warnings]
    output.pairs(lines)
