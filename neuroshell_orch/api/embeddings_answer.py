"""What is asked of ``/v1/embeddings`` and how it is answered: texts, or a model's own tokens, as vectors.

Owns the fields of the request, the choice of an encoder where none is named, and the two encodings of a vector. A text
that is longer than the model reads is cut off, as sentence-transformers does it; ``usage.truncated`` says how many
were. Must not know how a text becomes a vector.
"""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from neuroshell_orch.api import keep_alive
from neuroshell_orch.api.problems import json_response
from neuroshell_orch.api.requests import read_json, while_connected
from neuroshell_orch.core.messages import AskOptions
from neuroshell_orch.errors import OrchError
from neuroshell_orch.workers.protocol import Embed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request
    from starlette.responses import Response

    from neuroshell_orch.service import Service
    from neuroshell_orch.workers.protocol import Embedded

MAX_INPUTS: Final = 2048
"""OpenAI's own bound."""
_FORMS: Final = "Send a text, a list of texts, a list of tokens, or a list of lists of tokens."


class EmbeddingsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/embeddings."""

    input: str | list[str | int | list[int]]
    """A text, several, or their tokens; up to 2048."""
    model: str | None = None
    """A registered encoder; the only one where none is named."""
    encoding_format: Annotated[str | None, msgspec.Meta(extra_json_schema={"enum": ["float", "base64", None]})] = None
    dimensions: Annotated[int | None, msgspec.Meta(extra_json_schema={"minimum": 1})] = None
    """Shorter vectors, where the model was made for that."""
    user: str | None = None
    """A label: it changes nothing."""
    keep_alive: int | float | str | None = None
    """Ours and Ollama's: how long the model should stay warm afterwards."""


async def answer(request: Request) -> Response:
    """The response to POST /v1/embeddings."""
    service: Service = request.app.state.service
    wanted = await read_json(request, EmbeddingsRequest)
    if wanted.encoding_format not in {None, "float", "base64"}:
        raise OrchError("bad-request", "encoding_format is not known.", "Use float or base64.")
    if wanted.dimensions is not None and wanted.dimensions < 1:
        raise OrchError("bad-request", "dimensions must be 1 or more.", "")
    asked = Embed(job=0, inputs=inputs_of(wanted.input), dimensions=wanted.dimensions or 0)
    options = AskOptions(keep_alive=keep_alive.seconds(wanted.keep_alive))
    model = encoder_of(service, wanted.model)
    embedded = await while_connected(request, service.desk.embed(model, asked, options))
    encoded = _base64 if wanted.encoding_format == "base64" else floats
    return json_response(
        {
            "object": "list",
            "model": model,
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(encoded(embedded))
            ],
            "usage": {
                "prompt_tokens": embedded.tokens,
                "total_tokens": embedded.tokens,
                "truncated": embedded.truncated,
            },
        }
    )


def encoder_of(service: Service, name: str | None) -> str:
    """The encoder that a request means: the one it names, else the default model, else the only one there is."""
    models = service.configuration.models
    known = sorted(other for other, model in models.items() if model.runtime == "encoder")
    if not name and service.configuration.settings.default_model not in known:
        if len(known) == 1:
            return known[0]
        if not known:
            hint = "Get one with: nsorch model pull all-minilm-l6-v2"
            raise OrchError("no-model", "No encoder is registered.", hint)
        raise OrchError("no-model", "There are several encoders.", f"Name one of them: {', '.join(known[:8])}.")
    model = service.resolve(name)
    service.require_runtime(model, "encoder")
    return model


def inputs_of(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """The inputs one by one. Raises OrchError that names the one which cannot be."""
    inputs: list[str | list[int]] = []
    if isinstance(given, str):
        inputs.append(given)
    elif given and all(isinstance(item, int) for item in given):
        inputs.append([item for item in given if isinstance(item, int)])
    else:
        inputs += [item for item in given if not isinstance(item, int)]
        if len(inputs) < len(given) or len({type(item) for item in inputs}) > 1:
            raise OrchError("bad-request", "input mixes texts and tokens.", _FORMS)
    if not inputs:
        raise OrchError("empty-prompt", "input is empty.", _FORMS)
    if len(inputs) > MAX_INPUTS:
        raise OrchError("bad-request", f"input has more than {MAX_INPUTS} entries.", "Send them in several requests.")
    for index, item in enumerate(inputs):
        if not item:
            raise OrchError("empty-prompt", f"input[{index}] is empty.", "Leave it out: it has no meaning.")
    return inputs


def floats(embedded: Embedded) -> Iterator[tuple[float, ...]]:
    """The vectors as numbers."""
    return struct.iter_unpack(f"<{embedded.dimensions}f", embedded.vectors)


def _base64(embedded: Embedded) -> Iterator[str]:
    width = 4 * embedded.dimensions
    for at in range(0, len(embedded.vectors), width):
        yield base64.b64encode(embedded.vectors[at : at + width]).decode()
