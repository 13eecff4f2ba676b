"""``nsorch ask``: one question, one answer, streamed.

Owns the options and their help. What is done with them is in ``asking``.
"""

from __future__ import annotations

from typing import Annotated

import typer

from neuroshell_orch.cli import asking, complete
from neuroshell_orch.cli.root import new_app

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
    return asking.run(words, model, system, max_tokens, temperature, seed, stats, trace, as_json)
