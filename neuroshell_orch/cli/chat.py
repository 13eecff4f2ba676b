"""``nsorch chat``: turns with a history that lives in this process only.

Owns the history and the keys: Ctrl-C cancels an answer and not the chat, Ctrl-D ends it. Nothing is written to disk.
Must not know how an answer is made.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from neuroshell_orch.cli.ask import MaxTokens, Model, Seed, Stats, System, Temperature
from neuroshell_orch.cli.root import new_app

if TYPE_CHECKING:
    from neuroshell_orch.client import Client

app = new_app()

HELP = "/clear forgets what was said, /exit or Ctrl-D ends, Ctrl-C stops an answer."


@app.command()
def chat(
    model: Model = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    stats: Stats = False,
) -> int:
    """Talk with a model, turn by turn. /clear forgets, /exit or Ctrl-D ends, Ctrl-C stops an answer."""
    from neuroshell_orch.cli import private

    options = {"model": model, "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    with private.service() as client:
        return Chat(client, options, system, stats=stats).run()


class Chat:
    """One conversation."""

    def __init__(self, client: Client, options: dict[str, Any], system: str | None, *, stats: bool) -> None:
        self._client = client
        self._options = options
        self._beginning = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._beginning)
        self._stats = stats
        self._failed = 0

    def run(self) -> int:
        """Turns until the end of input; the exit code is that of the last turn where nobody sits at a terminal."""
        person = sys.stdin.isatty()
        if person:
            with suppress(ImportError):
                import readline  # noqa: F401  (importing it gives input() line editing)
            sys.stdout.write(f"{HELP}\n")
        while (line := self._next(person)) is not None:
            match line.strip():
                case "":
                    continue
                case "/exit" | "/quit" | "/bye":
                    break
                case "/clear":
                    self._messages = list(self._beginning)
                case "/help" | "/?":
                    sys.stdout.write(f"{HELP}\n")
                case text:
                    self._turn(text)
        return 0 if person else self._failed

    def _next(self, person: bool) -> str | None:
        while True:
            try:
                return input(">>> " if person else "")
            except EOFError:
                if person:
                    sys.stdout.write("\n")
                return None
            except KeyboardInterrupt:
                if not person:
                    raise
                sys.stdout.write("\n")

    def _turn(self, text: str) -> None:
        from neuroshell_orch.cli import answer, output
        from neuroshell_orch.errors import OrchError

        result = answer.Answer()
        messages = [*self._messages, {"role": "user", "content": text}]
        self._failed = 0
        try:
            try:
                answer.stream(self._client, answer.request(messages, **self._options), output.write_text, result)
            finally:
                if result.text and not result.text.endswith("\n"):
                    output.write_text("\n")
        except KeyboardInterrupt:
            output.note("(stopped)")
        except OrchError as error:
            output.complain(error.message, error.hint)
            self._failed = error.kind.exit_code
            return
        if result.text:
            self._messages = [*messages, {"role": "assistant", "content": result.text}]
        if self._stats:
            output.note(result.figures())
