"""``nsorch model``: list, show, add, pull, default, rm, preload, unload, prepare, gc, bench.

Owns what is printed and the order of the steps; files are the registry's, formats and downloads their modules', and
warmth is the daemon's. A daemon that runs is told after every change; one that sleeps is woken only to preload.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroshell_orch.cli import complete
from neuroshell_orch.cli.root import COMMANDS, new_app

if TYPE_CHECKING:
    from neuroshell_orch.api.schema import ModelStatus
    from neuroshell_orch.config.load import Configuration
    from neuroshell_orch.config.schema import ModelSettings

app = new_app(COMMANDS["model"])

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete.models, help="The model's name.")]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="The name it shall have.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the registered models; the default one is marked."""
    from neuroshell_orch.cli import local, output

    found = local.configuration()
    default = found.settings.default_model
    if as_json:
        output.print_json([as_data(model, default) for model in found.models.values()])
        return
    if not found.models:
        output.note("No model is registered. The default one: nsorch model pull smollm2-135m")
        return
    rows = [
        ("*" if m.name == default else " ", m.name, m.runtime, m.mode or f"({found.settings.mode})", m.path)
        for m in found.models.values()
    ]
    output.table(("", "NAME", "RUNTIME", "MODE", "PATH"), rows)


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show one model's settings and the file they come from."""
    from neuroshell_orch.cli import local, output, preparing
    from neuroshell_orch.config.schema import SECTIONS, show_value
    from neuroshell_orch.models import registry

    model = registry.get(name)
    found = local.configuration()
    if as_json:
        data = as_data(model, found.settings.default_model)
        output.print_json(data | {"prepared": preparing.as_data(model)})
        return
    values = [(field.key, show_value(field, getattr(model, field.field))) for field in SECTIONS["Model"].values()]
    rows = [("Name", model.name), *((key, value) for key, value in values if value), ("File", model.source)]
    if model.runtime == "encoder":
        rows.append(("Vectors", _vectors(model)))
    output.pairs([*rows, ("Memory", _memory(found, model)), ("Prepared", preparing.sentence(found, model))])


def _vectors(model: ModelSettings) -> str:
    """What an encoder makes of a text."""
    from neuroshell_orch import encoders
    from neuroshell_orch.errors import OrchError

    try:
        found = encoders.read(Path(model.path).expanduser())
    except OrchError as error:
        return f"not known: {error.message}"
    length = ", of length 1" if found.normalise else ""
    return f"{found.dimensions} numbers{length} ({found.pooling} of the tokens); reads {found.max_tokens} tokens"


def _memory(found: Configuration, model: ModelSettings) -> str:
    """What it takes while it is hot: the measured peak, or the estimate that holds until there is one."""
    from neuroshell_orch.config.paths import cache_dir, state_dir
    from neuroshell_orch.core.budget import sentence
    from neuroshell_orch.costs import Costs
    from neuroshell_orch.planning import artefact_of, order_of
    from neuroshell_orch.workers.preparing import recorded

    costs, artefact = Costs(state_dir()), artefact_of(model)
    seen, initial = costs.figures(artefact), recorded(cache_dir(), order_of(found, model.name), artefact)
    costs.begin_with(artefact, initial)
    cost = costs.cost(artefact, model.path, model.context_length, None, model.parallel)
    how = "the measured peak" if cost.measured else "estimated; measured at its first load"
    if initial is not None and initial.hot > (0 if seen is None else seen.hot):
        how = "measured when it was prepared"
    return f"{sentence(cost.hot)} when hot ({how})"


class Precision(StrEnum):
    """How the weights of a converted model are kept."""

    int4 = "int4"
    float32 = "float32"


@app.command()
def add(
    name: NewName,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="An ONNX file, a GGUF file, or a folder.")],
    precision: Annotated[Precision, typer.Option(help="For a GGUF file: how its weights are kept.")] = Precision.int4,
    as_json: Json = False,
) -> None:
    """Register a model. What can be used stays where it is; a GGUF file or an encoder's safetensors are converted.

    A folder is onnxruntime-genai's (language models) or sentence-transformers' (encoders).
    """
    from neuroshell_orch.cli import adding, preparing
    from neuroshell_orch.cli.ending import orderly
    from neuroshell_orch.cli.progress import Progress

    with orderly(), Progress() as progress:
        model = adding.add(name, path, "float32" if precision is Precision.float32 else "int4", progress)
        preparing.after_adding(name)
    _added(model, as_json, fresh=True)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete.catalogue, help="See --list.")] = "",
    listing: Annotated[bool, typer.Option("--list", help="List what can be pulled.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch a model of the catalogue, convert it and register it. Resumes, and does nothing twice."""
    from neuroshell_orch.cli import output, preparing
    from neuroshell_orch.cli.ending import orderly
    from neuroshell_orch.cli.progress import Progress
    from neuroshell_orch.models import bringing, catalogue

    if listing or not name:
        known = list(catalogue.entries().values())
        if as_json:
            output.print_json([{"name": e.name, "description": e.description, "licence": e.licence} for e in known])
        else:
            rows = [(e.name, output.size(e.package.size), e.licence, e.description) for e in known]
            output.table(("NAME", "DOWNLOAD", "LICENCE", "DESCRIPTION"), rows)
        return
    with orderly(), Progress() as progress:
        model, fresh = bringing.pull(name, progress)
        if fresh:
            preparing.after_adding(name)
    _added(model, as_json, fresh=fresh)


def _added(model: ModelSettings, as_json: bool, *, fresh: bool) -> None:
    from neuroshell_orch.cli import local, output

    if fresh:
        told()
    default = local.configuration().settings.default_model
    if as_json:
        output.print_json(as_data(model, default))
    elif not fresh:
        output.say(f"{model.name} is there already.")
    else:
        which = "" if model.name == default else f" -m {model.name}"
        use = {
            "genai": f'nsorch ask{which} "…"',
            "encoder": f'nsorch embed -m {model.name} "…"',
            "onnx": f"nsorch infer {model.name} NAME=VALUE",
        }
        output.say(f"{model.name} is registered. Try it: {use[model.runtime]}")


@app.command()
def default(name: Name, as_json: Json = False) -> None:
    """Make a model the one that answers where none is named."""
    from neuroshell_orch.cli import output
    from neuroshell_orch.config import write

    path = write.set_default_model(name)
    told()
    if as_json:
        output.print_json({"default": name, "file": str(path)})
    else:
        output.say(f"{name} is the default model.")


@app.command()
def rm(
    name: Name,
    keep_files: Annotated[bool, typer.Option("--keep-files", help="Leave the files that nsorch made for it.")] = False,
    as_json: Json = False,
) -> None:
    """Forget a model and delete what nsorch made for it. Files of your own are never touched."""
    import msgspec

    from neuroshell_orch.cli import local, output, preparing, wire
    from neuroshell_orch.models import registry

    model = local.configuration().models.get(name)
    copy = None if model is None else preparing.Copy(model)
    removed = registry.remove(name, delete_files=not keep_files)
    if copy is not None and not keep_files:
        removed = msgspec.structs.replace(removed, freed=removed.freed + copy.forget())
    told()
    if as_json:
        output.print_json(wire.plain(removed))
        return
    freed = f", {output.size(removed.freed)} freed" if removed.freed else ""
    output.say(f"{name} is removed{freed}.")
    if removed.kept:
        output.say(f"{removed.kept} stays: {removed.reason}.")


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete.models, help="The model's name.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Replace a copy that is good, too.")] = False,
    as_json: Json = False,
) -> None:
    """Make a model's prepared copy, from which it can hibernate; find its fastest number of threads and what it costs.

    Without a name: of all models that want one, as Prepare= says. A copy takes two to three times the model's size.
    """
    from neuroshell_orch.cli import preparing
    from neuroshell_orch.cli.ending import orderly

    with orderly():
        preparing.prepare(name, again=again, as_json=as_json)


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and delete nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Delete prepared copies that no registered model uses, and say how much disk that freed."""
    from neuroshell_orch.cli import preparing

    preparing.collect(dry_run=dry_run, as_json=as_json)


@app.command()
def bench(
    name: Name,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100, help="How often; medians are shown.")] = 3,
    as_json: Json = False,
) -> None:
    """Measure a model, in workers of its own: load, first token, speed, and memory at each warmth."""
    from neuroshell_orch.cli import preparing
    from neuroshell_orch.cli.ending import orderly

    with orderly():
        preparing.bench(name, rounds=rounds, as_json=as_json)


@app.command()
def preload(name: Name, as_json: Json = False) -> None:
    """Make a model hot now and wait for it."""
    from neuroshell_orch.cli.answer import Waiting
    from neuroshell_orch.client import Client, quoted

    with Waiting(f"loading {name}"):
        found = Client().call("POST", f"/orch/models/{quoted(name)}/preload", timeout=None)
    _tell(found, as_json)


@app.command()
def unload(name: Name, as_json: Json = False) -> None:
    """Give a model's memory back now, once nobody uses it."""
    from neuroshell_orch.cli import local, wire
    from neuroshell_orch.cli.answer import Waiting
    from neuroshell_orch.client import quoted
    from neuroshell_orch.models import registry

    client = local.running()
    if client is None:
        registry.get(name)
        found: object = wire.plain(next(model for model in local.status().models if model.name == name))
    else:
        with Waiting(f"waiting until {name} is unloaded"):
            found = client.call("POST", f"/orch/models/{quoted(name)}/unload", timeout=None)
    _tell(found, as_json)


def _tell(found: object, as_json: bool) -> None:
    from neuroshell_orch.api.schema import ModelStatus
    from neuroshell_orch.cli import output, wire

    if as_json:
        output.print_json(found)
        return
    output.say(sentence(wire.convert(found, ModelStatus)))


def sentence(model: ModelStatus) -> str:
    """How a model is now."""
    from neuroshell_orch.cli.output import harmless, size

    memory = f", {size(model.memory.pss)}" if model.memory else ""
    freed = model.freed
    given = f"; freed {size(freed.before - freed.after)} of {size(freed.before)}" if freed and not memory else ""
    return harmless(f"{model.name} is {model.phase}{memory}: {model.reason}{given}")


def told() -> None:
    """Let a running daemon read the configuration again; one that sleeps will do so by itself."""
    from neuroshell_orch.cli import local, output
    from neuroshell_orch.errors import OrchError

    client = local.running()
    if client is None:
        return
    try:
        client.call("POST", "/orch/reload")
    except OrchError as error:  # the change itself is done and stays
        output.note(f"nsorch: the running service did not take it over: {error.message}")


def as_data(model: ModelSettings, default: str) -> dict[str, object]:
    """A model as ``--json`` prints it."""
    from neuroshell_orch.config.schema import SECTIONS, show_value

    values = {field.field: show_value(field, getattr(model, field.field)) for field in SECTIONS["Model"].values()}
    return {"name": model.name, "default": model.name == default} | values | {"file": model.source}
