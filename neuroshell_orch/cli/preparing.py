"""``nsorch model prepare``, ``gc`` and ``bench``: what they do and what they print; what ``show`` says of a copy.

Owns the sentences. Copies are made and judged by ``workers``, figures are measured there. A copy that cannot be made
is no reason for ``model add`` to fail: the model works without it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from neuroshell_orch.cli import local, output
from neuroshell_orch.config.paths import cache_dir
from neuroshell_orch.config.write import require_model
from neuroshell_orch.errors import OrchError
from neuroshell_orch.planning import artefact_of, order_of, prepares
from neuroshell_orch.workers import copies, prepared
from neuroshell_orch.workers.preparing import gains, wants

if TYPE_CHECKING:
    from neuroshell_orch.config.load import Configuration
    from neuroshell_orch.config.schema import ModelSettings
    from neuroshell_orch.core.figures import Figures
    from neuroshell_orch.workers import benching


def copy_of(model: ModelSettings) -> tuple[Path | None, copies.Manifest | None, str]:
    """Where a model's copy lies or would lie, what it says of itself, and why it is not used, if so."""
    try:
        key = copies.key_of(_source(model))
    except OSError:
        return None, None, "the model's files are gone"
    folder = copies.folder_of(cache_dir(), _source(model), key)
    manifest, problem = copies.examine(folder, key)
    return folder, manifest, problem


def as_data(model: ModelSettings) -> dict[str, Any] | None:
    """The copy as ``--json`` shows it."""
    folder, manifest, problem = copy_of(model)
    if manifest is None or problem:
        return None
    return {
        "path": str(folder),
        "size": manifest.size,
        "seconds": manifest.seconds,
        "threads": manifest.tuning.threads if manifest.tuning else None,
        "rates": {str(threads): rate for threads, rate in manifest.tuning.rates.items()} if manifest.tuning else {},
        "costs": msgspec.to_builtins(manifest.costs.get(artefact_of(model))),
    }


def sentence(configuration: Configuration, model: ModelSettings) -> str:
    """What ``model show`` says about the copy."""
    use = prepares(configuration, model.name)
    if use == "never":
        return "no (Prepare=no)"
    folder, manifest, problem = copy_of(model)
    if manifest is not None and not problem:
        return f"{output.size(manifest.size)} in {folder}{_threads(manifest)}"
    if manifest is not None:
        return f"not used, {problem}; it is made anew when it is next needed"
    if use == "make":
        return "not yet; made when the model is next loaded, or now by: nsorch model prepare"
    if gains(order_of(configuration, model.name).load):
        return "not yet; made by: nsorch model prepare"
    return "no (its mode does not hibernate)"


def _threads(manifest: copies.Manifest) -> str:
    tuning = manifest.tuning
    if tuning is None:
        return ""
    rates = ", ".join(f"{threads}: {rate:.3g}/s" for threads, rate in tuning.rates.items())
    return f"; fastest with {tuning.threads} thread{'s' * (tuning.threads != 1)} ({rates})"


def _costs(figures: Figures | None) -> str:
    """What was measured of a model with its copy."""
    if figures is None:
        return ""
    sizes = [("HOT", figures.hot), ("HIBERNATED", figures.hibernated), ("PARKED", figures.parked)]
    wakes = [("HIBERNATED", figures.wake_hibernated), ("PARKED", figures.wake_parked), ("COLD", figures.wake_cold)]
    memory = ", ".join(f"{output.size(size)} when {rung}" for rung, size in sizes if size)
    times = ", ".join(f"{_seconds(seconds)} from {rung}" for rung, seconds in wakes if seconds)
    return f"Measured: it takes {memory}; it is ready after {times}."


def _source(model: ModelSettings) -> Path:
    return Path(model.path).expanduser()


def after_adding(name: str) -> None:
    """Make the copy of a model that has just come in, where one is wanted, and measure what it costs."""
    from neuroshell_orch.cli.answer import Waiting
    from neuroshell_orch.workers import readying

    found = local.configuration()
    if name not in found.models or not wants(order := order_of(found, name)):
        return
    try:
        with Waiting(f"preparing {name}, and measuring it for some seconds"):
            asyncio.run(readying.ready(cache_dir(), order, artefact_of(found.models[name])))
    except OrchError as error:
        output.note(f"nsorch: {readying.no_copy(name, error)}")


def prepare(name: str, *, again: bool, as_json: bool) -> None:
    """Make the copy of one model, or of all that want one, and measure what they cost."""
    from neuroshell_orch.cli.answer import Waiting
    from neuroshell_orch.cli.model import told
    from neuroshell_orch.workers import readying

    found = local.configuration()
    if name:
        require_model(found, name)
        if prepares(found, name) == "never":
            hint = f"Set Prepare=auto or yes in the file of the model, {found.models[name].source}."
            raise OrchError("not-allowed", f"Prepare=no holds for {name}: a copy would not be used.", hint)
    names = [name] if name else [other for other in found.models if wants(order_of(found, other))]
    if not names and not as_json:
        output.say(
            "No model needs a copy: Prepare=auto makes them of small language models and where a mode hibernates. "
            "Name one to make it anyway."
        )
    done: dict[str, object] = {}
    for each in names:
        model = found.models[each]
        order, artefact = order_of(found, each), artefact_of(model)
        with Waiting(f"preparing {each}, and measuring it"):
            manifest = asyncio.run(readying.ready(cache_dir(), order, artefact, again=again))
        done[each] = as_data(model)
        if not as_json:
            output.say(f"{each} is prepared: {output.size(manifest.size)}{_threads(manifest)}.")
            if costs := _costs(manifest.costs.get(artefact)):
                output.say(costs)
    if done:
        told()  # a daemon that runs reckons with the figures
    if as_json:
        output.print_json(done)


def collect(*, dry_run: bool, as_json: bool) -> None:
    """Delete the copies that no registered model uses."""
    found = local.configuration()
    sources = [_source(model) for name, model in found.models.items() if prepares(found, name) != "never"]
    unused = copies.unused(cache_dir(), sources)
    for item in unused:
        if not dry_run:
            try:
                copies.remove(item.folder)
            except OSError as error:
                raise OrchError("write-failed", f"{item.folder} cannot be deleted: {error.strerror}.", "") from error
    freed = sum(item.size for item in unused)
    if as_json:
        rows = [{"path": str(item.folder), "size": item.size, "reason": item.reason} for item in unused]
        output.print_json({"freed": 0 if dry_run else freed, "would_free": freed, "removed": rows})
        return
    for item in unused:
        output.say(f"{item.folder.name}  {output.size(item.size)}  {item.reason}")
    output.say(f"{output.size(freed)} {'would be freed' if dry_run else 'freed'}.")


class Copy:
    """The copy of a model that is about to be removed: found while its files are there, deleted when it is gone."""

    def __init__(self, model: ModelSettings) -> None:
        self._folder = copy_of(model)[0]

    def forget(self) -> int:
        """Delete it, unless another model uses it; the bytes freed."""
        others = {copy_of(other)[0] for other in local.configuration().models.values()}
        folder = self._folder
        if folder is None or folder in others or not folder.exists():
            return 0
        freed = copies.size_on_disk(folder)
        try:
            copies.remove(folder)
        except OSError as error:
            output.note(f"nsorch: {folder} stays: {error.strerror}")
            return 0
        return freed


def bench(name: str, *, rounds: int, as_json: bool) -> None:
    """Measure one model on every rung."""
    from neuroshell_orch.cli.answer import Waiting
    from neuroshell_orch.workers import benching, preparing

    found = local.configuration()
    require_model(found, name)
    order = order_of(found, name)
    load, source = order.load, Path(order.load.path)
    with Waiting(f"measuring {name}"):
        if order.prepare != "never" and copies.has_other(cache_dir(), source):
            try:
                copy = copies.find(cache_dir(), source)
            except OSError:
                copy = None
            if copy is not None:
                path, manifest = asyncio.run(prepared.tuned(cache_dir(), source))
                threads = load.threads or preparing.threads_of(manifest.tuning)
                load = msgspec.structs.replace(load, path=str(path), threads=threads)
        figures = asyncio.run(benching.measure(load, prepared=load.path != str(source), rounds=rounds))
    if as_json:
        output.print_json(msgspec.to_builtins(figures))
        return
    _show(figures, order.load.runtime)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _show(figures: benching.Benchmark, runtime: str) -> None:
    unit = {"genai": "tokens", "encoder": "texts"}.get(runtime, "runs")
    threads = "every core" if not figures.threads else f"{figures.threads} threads"
    copy = "its prepared copy" if figures.prepared else "its own files"
    output.say(f"{figures.model}: {figures.runtime_version}, {figures.device}, {threads}, from {copy}")
    first = "FIRST TOKEN" if runtime == "genai" else "ANSWER"
    rows = [
        (
            rung,
            _seconds(found.ready),
            _seconds(found.first),
            output.size(found.pss) if found.pss else "0 B",
            output.size(found.private_dirty) if found.pss else "0 B",
        )
        for rung, found in figures.rungs.items()
    ]
    output.table(("FROM", "READY AFTER", f"{first} AFTER", "MEMORY", "OF IT PRIVATE"), rows)
    output.say(f"{figures.rate:.3g} {unit} a second; medians of {figures.rounds} rounds.")
    if "HIBERNATED" in figures.rungs:
        output.say(f"Hibernating gave {output.size(figures.freed)} back in {_seconds(figures.hibernate_seconds)}.")
    elif figures.prepared:
        output.say("It cannot hibernate: its weights are less than what else it keeps in private memory.")
    else:
        output.say(f"It cannot hibernate without a prepared copy: nsorch model prepare {figures.model}")
