"""What ``nsorch ask`` does once its words are understood.

Owns how the prompt is put together from the words and standard input, and what is printed around the answer. Stands
on the way to the first token, so it imports nothing that it does not use. Must not know how a command line is read:
``ask`` knows it for people, ``quick`` for the usual case.
"""

from __future__ import annotations

import sys

from neuroshell_orch.errors import OrchError


def run(
    words: list[str] | None = None,
    model: str | None = None,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    stats: bool = False,
    trace: bool = False,
    as_json: bool = False,
) -> int:
    """Ask and print. Raises OrchError."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt(words or [])})
    from neuroshell_orch.cli import answer, output, private

    result = answer.Answer()
    body = answer.request(messages, model=model, max_tokens=max_tokens, temperature=temperature, seed=seed)
    try:
        with private.service() as client:
            answer.stream(client, body, (lambda _: None) if as_json else output.write_text, result, trace=trace)
    finally:
        if result.text and not result.text.endswith("\n") and not as_json:
            output.write_text("\n")
    if as_json:
        told = vars(result)
        output.print_json(told if trace else {name: value for name, value in told.items() if name != "timeline"})
    elif result.finish_reason == "length" and sys.stderr.isatty():
        output.note("(cut off: the limit of tokens is reached)")
    if stats:
        output.note(result.figures())
    if trace:
        from neuroshell_orch.cli.trace import lines

        output.note("\n".join(["milliseconds from the start of this command:", *lines(result.timeline)]))
    return 0


def prompt(words: list[str]) -> str:
    """The prompt from the command line and, where it is not a terminal, standard input. Raises OrchError if empty."""
    parts = [] if words == ["-"] else [" ".join(words)]
    if sys.stdin is not None and not sys.stdin.isatty():
        from neuroshell_orch.cli.answer import Waiting

        with Waiting("reading standard input"):
            piped = sys.stdin.buffer.read()
        if b"\0" in piped:
            message = "Standard input holds bytes that are not text."
            raise OrchError("bad-request", message, "Pipe text in, or close it with `< /dev/null`.")
        parts.append(piped.decode("utf-8", "replace"))
    text = "\n\n".join(part for part in (part.strip() for part in parts) if part)
    if not text:
        hint = 'Type one: nsorch ask "What is the capital of France?" - or pipe text in.'
        raise OrchError("empty-prompt", "The prompt is empty.", hint)
    return text
