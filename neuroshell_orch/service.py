"""What the APIs may ask of the daemon, and what the daemon says in the journal.

Owns the configuration in force, its reload, and the sentences about models: status, why, transitions. Must not know
HTTP, sockets or processes: engine, pool and desk are handed in and do the work.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import msgspec

from neuroshell_orch import __version__
from neuroshell_orch.accounts import Accounts
from neuroshell_orch.api.schema import (
    Freed,
    Happened,
    ModeInfo,
    ModelStatus,
    Status,
    Why,
)
from neuroshell_orch.config.load import Configuration, load
from neuroshell_orch.config.paths import cache_dir, state_dir
from neuroshell_orch.config.values import format_timespan
from neuroshell_orch.config.write import set_mode
from neuroshell_orch.core import messages as msg
from neuroshell_orch.core.budget import RAM
from neuroshell_orch.core.lifecycle import Phase
from neuroshell_orch.core.state import outlook
from neuroshell_orch.core.warmth import Warmth
from neuroshell_orch.desk import Desk
from neuroshell_orch.engine import Engine
from neuroshell_orch.errors import OrchError
from neuroshell_orch.failing import Failing
from neuroshell_orch.freeing import Freeing
from neuroshell_orch.habits import Habits
from neuroshell_orch.listeners import Listeners
from neuroshell_orch.outlooks import what_next
from neuroshell_orch.planning import Order, limits_of, order_of, plans_of
from neuroshell_orch.sd import journal
from neuroshell_orch.workers.pool import Pool
from neuroshell_orch.workers.preparing import Preparer, recorder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from neuroshell_orch.config.schema import ModelSettings
    from neuroshell_orch.core.state import Model
    from neuroshell_orch.workers.contract import Launcher
    from neuroshell_orch.workers.protocol import Loaded

_STARTING = frozenset({Phase.LOADING, Phase.PARKING})


class Service:
    """The daemon without its sockets. ``unit`` is the systemd unit it runs as, if any."""

    def __init__(
        self,
        configuration: Configuration,
        launcher: Launcher,
        *,
        unit: str | None,
        pong: Callable[[], None],
        leave: Callable[[str], None],
    ) -> None:
        self.configuration = configuration
        self.unit = unit
        self.started = time.time()
        self._freed: dict[str, Freed] = {}
        self._refused: list[str] = []
        self._reloading = asyncio.Lock()
        self.news = asyncio.Event()
        """The summary may be another one."""
        self.engine = Engine(self._perform, changed=self._changed, pong=pong, leave=leave)
        self.accounts = Accounts(state_dir(), self._settings, self.engine.post, recorder(cache_dir(), self._order))
        self.pool = Pool(
            launcher,
            Preparer(cache_dir()),
            self.engine.post,
            self._order,
            self._note_freed,
            self.accounts.measured,
            self.accounts.held_by,
        )
        self.desk = Desk(self.engine, self.pool, self._arriving)
        self.memory = Freeing(self.engine, self.pool, self._freed, self.resolve, lambda: self.accounts.gpus)
        self._clients = 0
        self.listeners = Listeners(lambda: self.clients(self._clients))
        self._failing = Failing()
        self.habits = Habits(state_dir(), self.engine)
        self.closing: list[Callable[[], Awaitable[None]]] = []
        """What else must come to its end with the daemon, after the last request."""

    def start(self) -> None:
        """Give the engine its first configuration."""
        for finding in self.configuration.warnings:
            journal.log(journal.WARNING, str(finding), message_id=journal.CONFIG_REFUSED)
        self._replan()
        self.accounts.look_for_gpus(self._replan)
        self.habits.recall()

    # ---- configuration ----

    async def reload(self) -> list[str]:
        """Read the configuration anew. Raises OrchError, and keeps the one in force, when the new one has errors."""
        async with self._reloading:
            try:
                fresh = await asyncio.to_thread(load)
            except OrchError as error:
                self._refused = [error.message]
                journal.log(
                    journal.ERR,
                    f"Configuration refused, the old one stays: {error.message}",
                    message_id=journal.CONFIG_REFUSED,
                )
                raise
            self._refused = []
            self.configuration = fresh
            self._replan()
            self.news.set()
            warnings = [str(finding) for finding in fresh.warnings]
            journal.log(
                journal.NOTICE,
                f"Configuration reloaded: mode {fresh.settings.mode}, {len(fresh.models)} models.",
                message_id=journal.CONFIG_RELOADED,
                mode=fresh.settings.mode,
            )
            for warning in warnings:
                journal.log(journal.WARNING, warning)
            return warnings

    async def set_mode(self, mode: str, model: str | None) -> None:
        """Select a mode for all models or for one, lastingly. Raises OrchError."""
        path = await asyncio.to_thread(set_mode, mode, model)
        journal.log(
            journal.NOTICE,
            f"Mode {mode} selected for {model or 'all models'} in {path}.",
            message_id=journal.MODE_SET,
            mode=mode,
            model=model,
        )
        await self.reload()

    def resolve(self, name: str | None) -> str:
        """The model that a request means. Raises OrchError when there is none of that name, or no default."""
        models = self.configuration.models
        known = ", ".join(sorted(models)[:8])
        if name:
            if name not in models:
                hint = f"Registered models: {known}." if known else "Get one with: nsorch model pull smollm2-135m"
                raise OrchError("model-unknown", f"There is no model named {name[:80]}.", hint)
            return name
        default = self.configuration.settings.default_model
        if default in models:
            return default
        known = ", ".join(sorted(other for other, model in models.items() if model.runtime != "encoder")[:8])
        if not known:
            what = "No model that answers prompts is registered." if models else "No model is registered."
            raise OrchError("no-model", what, "Get one with: nsorch model pull smollm2-135m")
        raise OrchError("no-model", "No default model is set.", f"Name one of them (DefaultModel= or -m): {known}.")

    def require_runtime(self, name: str, runtime: str) -> None:
        """Raises OrchError when ``name`` is a model of another kind than the API that was called serves."""
        if self.configuration.models[name].runtime != runtime:
            use = {
                "onnx": f"nsorch infer {name} … (/v2)",
                "genai": f"nsorch ask -m {name} … (/v1)",
                "encoder": f"nsorch embed -m {name} … (/v1/embeddings)",
            }
            does = {"onnx": "answers tensors", "genai": "answers prompts", "encoder": "turns texts into vectors"}
            lacks = {"onnx": ", not tensors", "genai": ", not prompts", "encoder": " and makes no embeddings"}
            other = self.configuration.models[name].runtime
            message = f"Model {name} {does[other]}{lacks[runtime]}."
            raise OrchError("unsupported", message, f"Use {use[other]}.")

    def loaded(self, name: str) -> Loaded | None:
        """What the worker of ``name`` said when it was loaded, while it lives."""
        record = self.engine.state.models.get(name)
        return None if record is None else self.pool.loaded(record.worker)

    def load_seconds(self, name: str) -> float | None:
        """How long the last load of ``name`` took, while its worker lives."""
        loaded = self.loaded(name)
        return None if loaded is None else loaded.seconds

    # ---- models ----

    async def preload(self, name: str, options: msg.AskOptions = msg.NO_OPTIONS) -> ModelStatus:
        """Make ``name`` HOT and wait for it. Raises OrchError when that fails."""
        name = self.resolve(name)
        self._arriving(name)
        ask, _worker = await self.engine.ask(name, options)
        self.engine.finished(ask, hold=True)
        return self.model_status(name)

    async def unload(self, name: str) -> ModelStatus:
        """Give the memory of ``name`` back once nobody uses it, and wait until its process is gone."""
        name = self.resolve(name)
        number = self.engine.post(msg.Unload(name))

        def over() -> bool:
            record = self.engine.state.models.get(name)
            asked_again = record is not None and record.facts.cap is not Warmth.COLD
            return self.engine.taken >= number and (record is None or record.phase is Phase.COLD or asked_again)

        await self.engine.until(over)
        return self.model_status(name)

    # ---- what there is to see ----

    def status(self) -> Status:
        """The daemon in one look; reads each live worker's memory."""
        settings = self.configuration.settings
        return Status(
            version=__version__,
            pid=os.getpid(),
            unit=self.unit,
            started=self.started,
            mode=settings.mode,
            default_model=settings.default_model or None,
            launcher=self.pool.launcher.kind,
            models=[self.model_status(name) for name in self.configuration.models],
            warnings=[
                *self._refused,
                *(f"{n}: memory lost: {f.lost}" for n, f in self._freed.items() if f.lost),
                *(str(finding) for finding in self.configuration.warnings),
            ],
        )

    def model_status(self, name: str) -> ModelStatus:
        """One registered model. Raises KeyError for others."""
        settings = self.configuration.models[name]
        status = ModelStatus(
            name=name,
            path=settings.path,
            runtime=settings.runtime,
            mode=self.configuration.mode_of(name).name,
            warmth="COLD",
            phase="COLD",
            reason="nobody has asked",
            since=self.started,
            freed=self._freed.get(name),
        )
        record = self.engine.state.models.get(name)
        return status if record is None else self._live(status, record)

    def _live(self, status: ModelStatus, record: Model) -> ModelStatus:
        worker = self.pool.find(record.worker)
        loaded = self.pool.loaded(record.worker)
        future = outlook(record)
        return msgspec.structs.replace(
            status,
            warmth=record.warmth.name,
            phase=record.phase.value,
            reason=record.reason,
            since=self.engine.wall(record.since),
            wanted=record.wish.warmth.name,
            next_at=None if future is None else self.engine.wall(future[0]),
            next_warmth=None if future is None else future[1].warmth.name,
            running=len(record.running),
            waiting=len(record.waiting),
            pid=None if worker is None else worker.pid,
            unit=None if worker is None else worker.unit,
            memory=self.pool.memory(record.worker),
            load_seconds=None if loaded is None else loaded.seconds,
            context_length=(loaded.context_length or None) if loaded is not None else None,
            needs=record.plan.cost.hot.get(RAM),
            needs_measured=record.plan.cost.measured,
            needs_vram=sum(size for resource, size in record.plan.cost.hot.items() if resource != RAM),
        )

    def why(self, name: str) -> Why:
        """Why ``name`` is as warm as it is, and what comes next."""
        status = self.model_status(self.resolve(name))
        record = self.engine.state.models.get(status.name)
        next_ = "the next ask loads it"
        if record is not None:
            next_ = what_next(self.engine.state, record, self.engine.now())
        history = list(self.engine.history.get(status.name, ()))
        return Why(status.name, status.warmth, status.reason, next_, history)

    def clients(self, count: int) -> None:
        """So many connections are open. Those that only listen keep nobody awake."""
        self._clients = count
        self.engine.post(msg.Clients(max(0, count - self.listeners.count)))

    def modes(self) -> list[ModeInfo]:
        """Every mode that can be selected."""
        active = self.configuration.settings.mode
        return [
            ModeInfo(
                name=mode.name,
                description=mode.description,
                policy=mode.policy,
                parameters={
                    "IdleSec": format_timespan(mode.idle_sec),
                    "ForgetSec": format_timespan(mode.forget_sec),
                    "Standby": "yes" if mode.standby else "no",
                },
                source=str(mode.source),
                active=mode.name == active,
            )
            for mode in self.configuration.modes.values()
        ]

    def summary(self) -> str:
        """One line for ``systemctl status``."""
        warm = [
            f"{model.name} {model.phase.value}"
            for model in self.engine.state.models.values()
            if model.phase is not Phase.COLD
        ]
        return f"Mode {self.configuration.settings.mode}: {', '.join(warm) if warm else 'nothing warm'}"

    def _settings(self, name: str) -> ModelSettings | None:
        return self.configuration.models.get(name)

    def _replan(self) -> None:
        """Give the engine the plans and limits of the configuration in force."""
        plans = plans_of(self.configuration, self.accounts.cost, self.accounts.wanted.__contains__)
        self.engine.post(msg.Configured(plans, limits_of(self.configuration, self.accounts.gpus)))

    # ---- callbacks ----

    def _perform(self, action: msg.WorkerAction) -> None:
        self.pool.perform(action)

    def _arriving(self, model: str) -> None:
        """Somebody asks. A model whose load failed is tried again at once if its file is another one now."""
        self.habits.asked()
        self.accounts.want(model)
        settings = self.configuration.models.get(model)
        if settings is not None and self._failing.replaced(model, settings.path):
            self.engine.post(msg.Forgive(model))

    def _order(self, model: str) -> Order:
        try:
            return order_of(self.configuration, model)
        except KeyError:
            raise OrchError("model-unknown", f"Model {model} was removed.", "See: nsorch model list") from None

    def _note_freed(self, model: str, freed: Freed) -> None:
        self._freed[model] = freed
        amount = freed.before - freed.after
        journal.log(
            journal.INFO,
            f"{model}: freed {_parts(freed)} in {freed.seconds * 1000:.0f} ms",
            message_id=journal.MEMORY_FREED,
            model=model,
            freed=amount,
        )
        if freed.lost:
            journal.log(
                journal.WARNING,
                f"{model}: not all came back: {freed.lost}",
                message_id=journal.MEMORY_LOST,
                model=model,
            )

    def _changed(self, change: msg.Changed) -> None:
        self.news.set()
        self.listeners.tell(
            Happened("transition", time.time(), change.model, change.before, change.after, change.reason)
        )
        configuration = self.configuration
        mode = configuration.mode_of(change.model).name if change.model in configuration.models else None
        record = self.engine.state.models.get(change.model)
        failed = record is not None and record.failures > 0
        if failed and change.after in {Phase.STOPPING, Phase.COLD} and change.before in _STARTING:
            priority, message_id = journal.WARNING, journal.LOAD_FAILED
            if change.model in configuration.models:
                self._failing.failed(change.model, configuration.models[change.model].path)
        elif change.after == Phase.COLD and change.before != Phase.STOPPING:
            priority, message_id = journal.WARNING, journal.WORKER_DIED
        else:
            priority, message_id = journal.INFO, journal.WARMTH_CHANGED
        journal.log(
            priority,
            f"{change.model}: {change.before} → {change.after}: {change.reason}",
            message_id=message_id,
            model=change.model,
            mode=mode,
            warmth=record.warmth.name if record is not None else None,
            reason=change.reason,
        )


def _parts(freed: Freed) -> str:
    """How much of how much, for people: ``226 of 228 MiB``."""
    kinds = [("", freed.before, freed.after)]
    if freed.vram_before:
        kinds.append((" of accelerators", freed.vram_before, freed.vram_after))
    return " and ".join(f"{(b - a) / 1048576:.0f} of {b / 1048576:.0f} MiB{what}" for what, b, a in kinds)
