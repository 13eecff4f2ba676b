"""``nsorch ask``: one question, one answer, streamed.

Owns how the prompt is put together from the words and standard input, and what is printed around the answer. Stands
on the way to the first token, so it imports nothing that it does not use.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from neuroshell_orch.cli import complete
from neuroshell_orch.cli.root import new_app
from neuroshell_orch.errors import OrchError

app = new_app()

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME", help="The model to ask.", autocompletion=complete.models),
]
System = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="Instructions that come before the prompt.")
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", min=1, help="End the answer after this many tokens.")
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", metavar="T", min=0.0, max=2.0, help="0 always picks the likeliest token."),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="Make a random choice repeatable.")]
Stats = Annotated[bool, typer.Option("--stats", help="Print tokens, speed and times to stderr at the end.")]
Trace = Annotated[bool, typer.Option("--trace", help="Print to stderr what happened when, up to the first token.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")]


@app.command()
def ask(
    words: Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="The question.")] = None,
    model: Model = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    stats: Stats = False,
    trace: Trace = False,
    as_json: Json = False,
) -> int:
    """Ask a model; the answer is printed while it is written.

    What is piped in is added to the prompt: git diff | nsorch ask "summarise this"
    """
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt(words or [])})
    from dataclasses import asdict

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
        told = asdict(result)
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
