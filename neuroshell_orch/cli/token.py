"""``nsorch token``: create, list and revoke the tokens of the loopback port.

Owns how they are shown. Works on the file itself, so the service may sleep; one that runs sees a change at the next
request. A token is printed once, on standard output, and is not kept anywhere.
"""

from __future__ import annotations

from typing import Annotated

import typer

from neuroshell_orch.cli import complete
from neuroshell_orch.cli.root import COMMANDS, new_app

app = new_app(COMMANDS["token"])

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="What it is for, such as the program's name.")]


@app.command()
def create(
    name: Name,
    models: Annotated[
        str,
        typer.Option("--models", metavar="A,B", help="Only for these models, and not for control of the service."),
    ] = "",
    expires: Annotated[str, typer.Option("--expires", metavar="SPAN", help="How long it lasts: 30d, 12h.")] = "",
    as_json: Json = False,
) -> None:
    """Make a token and print it; it cannot be printed again."""
    from neuroshell_orch.api import tokens
    from neuroshell_orch.cli import output

    wanted = [model.strip() for model in models.split(",")] if models else None
    secret = tokens.create(name, wanted, _seconds(expires))
    unknown = sorted(set(wanted or ()) - set(complete.models("")))
    if unknown:
        output.note(f"Not registered so far: {', '.join(unknown)}.")
    if as_json:
        output.print_json({"name": name, "token": secret})
        return
    output.note("Send it as 'Authorization: Bearer …'. It is not shown again:")
    output.say(secret)


def _seconds(expires: str) -> float | None:
    from neuroshell_orch.config.values import parse_timespan
    from neuroshell_orch.errors import OrchError

    if not expires:
        return None
    try:
        seconds = parse_timespan(expires)
    except ValueError as error:
        raise OrchError("bad-request", f"--expires: {error}.", "") from None
    if seconds == 0:
        raise OrchError("bad-request", "--expires is no time at all.", "Leave it out for a token that lasts.")
    return None if seconds == float("inf") else seconds


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the tokens: for which models, until when, last used when."""
    import time

    from neuroshell_orch.api import tokens
    from neuroshell_orch.cli import output

    used, now = tokens.last_used(), time.time()
    found = tokens.read()
    if as_json:
        output.print_json(
            [
                {
                    "name": token.name,
                    "models": token.models,
                    "created": token.created,
                    "expires": token.expires,
                    "expired": token.expired(now),
                    "used": used.get(token.hash),
                }
                for token in found
            ]
        )
        return
    if not found:
        output.note("There is no token so far: make one with nsorch token create NAME.")
        return
    rows = []
    for token in found:
        lasts = "never" if token.expires is None else output.span(token.expires - now)
        until = "expired" if token.expired(now) else lasts
        last = output.ago(used.get(token.hash, 0.0)) or "never"
        rows.append((token.name, "all" if token.models is None else ",".join(token.models), until, last))
    output.table(("NAME", "MODELS", "EXPIRES", "USED"), rows)


@app.command()
def revoke(name: Name, as_json: Json = False) -> None:
    """Take a token back, now."""
    from neuroshell_orch.api import tokens
    from neuroshell_orch.cli import output

    tokens.revoke(name)
    if as_json:
        output.print_json({"name": name, "revoked": True})
        return
    output.say(f"The token {name} is revoked.")
