"""From configuration to what the engine and the workers need to know.

Owns the translation of settings into plans, limits and load orders, so that the core never sees a configuration file
and the configuration never sees the core. Decides nothing and touches nothing but the size of this machine's memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.config.values import UNLIMITED, Percent
from neuroshell_orch.core.budget import RAM, Cost
from neuroshell_orch.core.messages import Limits, Plan
from neuroshell_orch.core.modes import Parameters
from neuroshell_orch.workers.protocol import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from neuroshell_orch.config.load import Configuration
    from neuroshell_orch.config.schema import ModelSettings, ModeSettings
    from neuroshell_orch.desktop.gpu import Gpu


HIBERNATING = frozenset({"hibernate", "adaptive"})
"""The policies that have a use for weights that can be given back."""


_UNASKED: Final = frozenset({"persistent", "adaptive"})
"""The policies that load a model before anybody asks for it."""


class Order(msgspec.Struct, frozen=True):
    """How one model is loaded: the frame for its worker, and the most memory (bytes) that worker may use.

    ``prepare``: whether a copy whose weights can be given back is to be loaded instead, see ``prepares``.
    """

    load: Load
    memory_max: int | None
    prepare: str = "never"


def parameters_of(mode: ModeSettings, keep_alive: str) -> Parameters:
    """A mode as its policy sees it."""
    return Parameters(mode.name, mode.policy, mode.idle_sec, mode.forget_sec, mode.standby, keep_alive)


def order_of(configuration: Configuration, name: str) -> Order:
    """How ``name`` is loaded. Raises KeyError when it is not registered."""
    model = configuration.models[name]
    load = Load(
        model=name,
        runtime=model.runtime,
        path=os.path.expanduser(model.path),  # noqa: PTH111 - Path.expanduser raises where there is no home
        threads=model.threads,
        context_length=model.context_length,
        options={"device": model.device},
        parallel=model.parallel,
        keep_prefix=model.keep_prefix,
    )
    wanted = model.memory_max if model.memory_max is not None else configuration.settings.worker_memory_max
    return Order(load, _bytes(wanted), prepares(configuration, name))


def prepares(configuration: Configuration, name: str) -> str:
    """What becomes of the model's prepared copy: ``make`` it and use it, ``use`` it where there is one, ``never``."""
    wanted = configuration.models[name].prepare or configuration.settings.prepare
    if wanted == "auto":
        return "make" if configuration.mode_of(name).policy in HIBERNATING else "use"
    return "make" if wanted == "yes" else "never"


def plans_of(
    configuration: Configuration,
    cost: Callable[[ModelSettings, str], Cost],
    wanted: Callable[[str], bool] = lambda _name: True,
) -> dict[str, Plan]:
    """A plan for each registered model; ``cost`` says what one takes, given its artefact.

    Loaded at start, where the mode is persistent, are the default model and each model that was given that mode by
    name; all others would stay once they were asked, but a folder full of models must not fill the memory at login.
    What a model costs is looked up where it may be loaded unasked or is ``wanted``: it takes reading its files, and a
    thousand models that nobody asks for would be most of a start.
    """
    settings = configuration.settings
    plans: dict[str, Plan] = {}
    for name, model in configuration.models.items():
        mode = configuration.mode_of(name)
        timeout = model.load_timeout_sec if model.load_timeout_sec is not None else settings.load_timeout_sec
        eager = mode.policy == "persistent" and (bool(model.mode) or name == settings.default_model)
        artefact = artefact_of(model)
        plans[name] = Plan(
            parameters_of(mode, settings.keep_alive_policy),
            artefact,
            timeout,
            parallel=model.parallel,
            eager=eager,
            cost=cost(model, artefact) if mode.policy in _UNASKED or wanted(name) else Cost(),
        )
    return plans


def limits_of(configuration: Configuration, gpus: Sequence[Gpu] = ()) -> Limits:
    """The daemon's bounds, with a budget for each accelerator."""
    settings = configuration.settings
    ram = _bytes(settings.memory_budget)
    budget = {} if ram is None else {RAM: ram}
    for gpu in gpus:
        reserve = min(_of(settings.vram_reserve, gpu.total), gpu.total)
        budget[gpu.name] = min(_of(settings.vram_budget, gpu.total), gpu.total - reserve)
    return Limits(settings.max_queue, settings.idle_exit_sec, budget, settings.max_swap_delay, settings.on_lease)


def artefact_of(model: ModelSettings) -> str:
    """What must be loaded anew when it changes."""
    more = f" {model.parallel} at once" if model.parallel > 1 else ""
    more += "" if model.keep_prefix else " forgetful"
    return f"{model.runtime} {model.digest} {model.threads} {model.context_length} {model.device} {model.path}{more}"


def _of(size: int | Percent, total: int) -> int:
    return size.of(total) if isinstance(size, Percent) else size


def _bytes(size: int | Percent) -> int | None:
    if isinstance(size, Percent):
        return size.of(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return None if size >= UNLIMITED else size
