"""``nsorch embed``: texts into vectors.

Owns the command: where the texts come from (words, or lines of standard input), that many of them go in several
requests, and where the vectors go. Must not know how a text becomes a vector.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroshell_orch.cli import complete
from neuroshell_orch.cli.root import new_app
from neuroshell_orch.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuroshell_orch.cli.tensors import Array
    from neuroshell_orch.client import Client, Json

app = new_app()

AT_ONCE = 256
"""Texts of one request."""


@app.command()
def embed(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT…", help="The texts; without any, lines of standard input.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME", help="The encoder.", autocompletion=complete.models),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the vectors to this .npy (or .npz) file, one a row."),
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", metavar="N", min=1, help="Shorter vectors, where the model allows.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the vectors as JSON.")] = False,
) -> None:
    """Turn texts into vectors: nsorch embed "a cat" "a dog", or nsorch embed -o out.npy < lines.txt"""
    from neuroshell_orch.cli import output, private
    from neuroshell_orch.cli.infer import save

    given = texts if texts and texts != ["-"] else _lines()
    fields = {key: value for key, value in {"model": model, "dimensions": dimensions}.items() if value is not None}
    with private.service() as client:
        answers = [_asked(client, given[at : at + AT_ONCE], fields) for at in range(0, len(given), AT_ONCE)]
    vectors = _array(answers)
    usage = {key: sum(answer["usage"].get(key, 0) for answer in answers) for key in answers[0]["usage"]}
    if out is not None:
        save(out, {"embeddings": vectors})
    if as_json:
        found = {"model": answers[0]["model"], "dimensions": vectors.shape[1]}
        output.print_json({**found, "embeddings": [_plain(row) for row in vectors], "usage": usage})
    elif out is None:
        rows = [(_short(text), ", ".join(f"{value:.4g}" for value in row[:6])) for text, row in _rows(given, vectors)]
        output.table(("TEXT", f"THE FIRST OF {vectors.shape[1]} VALUES"), rows)
    if usage.get("truncated"):
        count = f"{usage['truncated']} of {len(given)} texts were" if len(given) > 1 else "The text was"
        output.note(f"nsorch: {count} longer than the model reads, and cut off.")


def _lines() -> list[str]:
    from neuroshell_orch.cli.answer import Waiting

    if sys.stdin is None or sys.stdin.isatty():
        raise OrchError(
            "empty-prompt", "There is no text.", 'Type some: nsorch embed "a cat" "a dog" - or pipe lines in.'
        )
    with Waiting("reading standard input"):
        piped = sys.stdin.buffer.read()
    try:
        lines = piped.decode().splitlines()
    except UnicodeDecodeError as error:
        line = piped[: error.start].count(b"\n") + 1
        raise OrchError("bad-request", f"Line {line} of standard input is not UTF-8.", "Pipe text in.") from None
    if not lines:
        raise OrchError("empty-prompt", "Standard input is empty.", "Pipe lines of text in.")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            hint = "Every line becomes one row, and an empty one has no meaning: leave it out."
            raise OrchError("empty-prompt", f"Line {number} of standard input is empty.", hint)
    return lines


def _asked(client: Client, texts: list[str], fields: Mapping[str, object]) -> Json:
    body = {"input": texts, "encoding_format": "base64", **fields}
    return client.call("POST", "/v1/embeddings", body, timeout=None)


def _array(answers: list[Json]) -> Array:
    import base64

    import numpy as np

    rows = [base64.b64decode(item["embedding"]) for answer in answers for item in answer["data"]]
    return np.frombuffer(b"".join(rows), "<f4").reshape(len(rows), -1)


def _plain(row: Array) -> list[float]:
    """The numbers as short as they can be without becoming others."""
    return [float(str(value)) for value in row]


def _rows(texts: list[str], vectors: Array) -> list[tuple[str, list[float]]]:
    return [(text, row.tolist()) for text, row in zip(texts, vectors, strict=True)]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else f"{line[:39]}…"
