"""``nsorch infer``: one run of a tensor model.

Owns the command and where the outputs go; the forms of a tensor are in ``tensors``, which brings numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroshell_orch.cli import complete
from neuroshell_orch.cli.root import new_app

if TYPE_CHECKING:
    from neuroshell_orch.cli.tensors import Array
    from neuroshell_orch.client import Client

app = new_app()


@app.command()
def infer(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.", autocompletion=complete.models)],
    inputs: Annotated[list[str], typer.Argument(metavar="NAME=VALUE", help="@x.npy, 1,2,3 or [[1,2],[3,4]].")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the outputs to this .npz (or .npy) file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outputs as JSON.")] = False,
) -> None:
    """Run a tensor model once: nsorch infer MODEL x=@x.npy mask=1,1,0 -o out.npz"""
    from neuroshell_orch.cli import output, private, tensors
    from neuroshell_orch.client import quoted

    given = [tensors.parse(text) for text in inputs]  # a mistake in the words is told before a service is asked
    with private.service() as client:
        declared = _declared(client, model)
        sent = [tensors.tensor(item, declared) for item in given]
        body = {"inputs": [item.head for item in sent], "parameters": {"binary_data_output": True}}
        path = f"/v2/models/{quoted(model)}/infer"
        answer, behind = client.call_binary(path, body, [item.data for item in sent])
    arrays = tensors.arrays(answer.get("outputs", []), behind)
    if out is not None:
        save(out, arrays)
    if as_json:
        for item in answer.get("outputs", []):
            item.pop("parameters", None)
            item["data"] = tensors.plain(arrays[str(item.get("name"))])
        output.print_json(answer)
    elif out is None:
        output.table(
            ("NAME", "TYPE", "SHAPE", "VALUES"), [(name, *tensors.summary(item)) for name, item in arrays.items()]
        )


def _declared(client: Client, model: str) -> dict[str, str]:
    """The input types that the model asks for, as far as the service knows them yet."""
    from neuroshell_orch.client import quoted
    from neuroshell_orch.errors import OrchError

    try:
        found = client.call("GET", f"/v2/models/{quoted(model)}")
    except OrchError as error:
        if error.problem not in {"not-found", "model-invalid"}:  # the inference itself says it better
            raise
        return {}
    return {item["name"]: item["datatype"] for item in found.get("inputs", [])}


def save(path: Path, arrays: dict[str, Array]) -> None:
    """Write ``arrays`` atomically. Raises OrchError where that cannot be done."""
    import os
    import tempfile

    import numpy as np

    from neuroshell_orch.errors import OrchError

    single = path.suffix == ".npy"
    if single and len(arrays) != 1:
        names = ", ".join(arrays)
        raise OrchError("bad-request", f"A .npy file holds one array, the outputs are {names}.", "Use a .npz file.")
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            if single:
                np.save(file, next(iter(arrays.values())), allow_pickle=False)
            else:
                np.savez(file, allow_pickle=False, **arrays)
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        message = f"Cannot write {path}: {error.strerror or error}."
        raise OrchError("not-allowed", message, "Name a folder that exists and that you may write to.") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    import os

    mask = os.umask(0o077)
    os.umask(mask)
    return mask
