"""What the engine is told (events) and what it answers (actions).

Owns the vocabulary between policy and mechanism, nothing else. Plain immutable values, so that a test is a
comparison of lists. ``ask`` is an opaque name that the API chose; ``worker`` is a number that is never used twice,
which is how reports of a worker that was already given up are told apart.
"""

from __future__ import annotations

from typing import Final

import msgspec

from neuroshell_orch.core.budget import Bytes, Cost
from neuroshell_orch.core.history import Gaps
from neuroshell_orch.core.modes import Parameters
from neuroshell_orch.core.warmth import Warmth


class Plan(msgspec.Struct, frozen=True):
    """What the engine must know of a registered model. ``artefact`` changes when the model must be loaded anew."""

    mode: Parameters
    artefact: str = ""
    load_timeout: float = 120.0
    parallel: int = 1
    eager: bool = False
    cost: Cost = Cost()


class Limits(msgspec.Struct, frozen=True):
    """Bounds that hold for the whole daemon: asks that may wait, and seconds of quiet before it exits.

    ``budget`` is what all workers together may take; a resource that it does not name is not limited. ``swap_delay``:
    seconds for which asks for a model that is there go before those for one that would have to take its place.
    """

    max_queue: int = 64
    idle_exit: float = 30.0
    budget: Bytes = {}
    swap_delay: float = 10.0
    on_lease: str = "queue"
    """What becomes of asks whose model needs leased memory: queue, refuse or cpu."""


class Event(msgspec.Struct, frozen=True):
    """Base of everything that can happen."""


class Configured(Event, frozen=True):
    """The configuration was read, at start or by a reload."""

    plans: dict[str, Plan]
    limits: Limits


class Recalled(Event, frozen=True):
    """When models were asked before this run began, on this run's clock. Theirs to keep from now on."""

    histories: dict[str, Gaps]


class Tick(Event, frozen=True):
    """The time that ``next_deadline`` named has come."""


class Ping(Event, frozen=True):
    """The watchdog asks whether the engine still turns."""


class AskOptions(msgspec.Struct, frozen=True):
    """What a client may say of its ask.

    ``keep_alive``: seconds that the model should stay warm after the answer. ``priority``: interactive, normal or
    background. ``patience``: seconds that it may wait for its turn before it is refused.
    """

    keep_alive: float | None = None
    priority: str = "normal"
    patience: float | None = None


NO_OPTIONS: Final = AskOptions()


class Asked(Event, frozen=True):
    """Somebody wants an answer from ``model``."""

    ask: str
    model: str
    options: AskOptions = AskOptions()


class Finished(Event, frozen=True):
    """The ask is over: answered, failed or cancelled. Unknown asks are ignored: their end was already known.

    With ``hold`` it was there only to make the model ready, which the mode then keeps for the next ask.
    """

    ask: str
    hold: bool = False


class Cancelled(Event, frozen=True):
    """The client of this ask is gone."""

    ask: str


class Unload(Event, frozen=True):
    """Somebody wants memory of ``model`` back: it may be no warmer than ``to`` until it is asked again."""

    model: str
    to: Warmth = Warmth.COLD
    reason: str = "unloaded on request"


class Forgive(Event, frozen=True):
    """What made ``model`` fail to load may be gone: its file changed."""

    model: str


class Costed(Event, frozen=True):
    """``model`` was measured: this is what it costs from now on."""

    model: str
    cost: Cost


class Report(Event, frozen=True):
    """Base of what is known of a worker."""

    model: str
    worker: int


class Parked(Report, frozen=True):
    """The standby worker is ready."""


class Loaded(Report, frozen=True):
    """The model can answer. Not every model's weights can be given back while its session lives."""

    seconds: float = 0.0
    can_hibernate: bool = True


class Hibernated(Report, frozen=True):
    """The weight pages are given back."""


class Woken(Report, frozen=True):
    """The weight pages are resident again."""


class Failed(Report, frozen=True):
    """The operation under way failed; the worker may still live. ``problem`` as in ``errors.PROBLEMS``."""

    problem: str
    message: str
    hint: str = ""


class Gone(Report, frozen=True):
    """The worker's process no longer exists; ``message`` says how it ended."""

    message: str
    hint: str = ""


class Clients(Event, frozen=True):
    """So many connections are open now."""

    count: int


class Shutdown(Event, frozen=True):
    """Finish the answers that are being written, for ``grace`` seconds at most, then stop everything."""

    grace: float


class Leased(Event, frozen=True):
    """Somebody wants the accelerators' memory free, and with ``memory`` all of it; ``label`` is for people.

    ``holder``: its process and user, where they are known.
    """

    lease: str
    label: str
    memory: bool = False
    holder: tuple[int, int] | None = None


class Released(Event, frozen=True):
    """The holder of this lease is done, or gone."""

    lease: str


class Stay(Event, frozen=True):
    """An Exit could not be carried out because somebody had just connected."""


class Action(msgspec.Struct, frozen=True):
    """Base of everything the engine can ask for."""


class WorkerAction(Action, frozen=True):
    """Base of what is done to a worker: at most one of these for a model in one step."""

    model: str
    worker: int


class StartStandby(WorkerAction, frozen=True):
    """Start a worker and let it park."""


class StartLoad(WorkerAction, frozen=True):
    """Start a worker and let it load the model at once, on ``device`` if one is named."""

    device: str = ""


class Load(WorkerAction, frozen=True):
    """Load the model in the standby worker, on ``device`` if one is named."""

    device: str = ""


class Hibernate(WorkerAction, frozen=True):
    """Give the weight pages back."""


class Wake(WorkerAction, frozen=True):
    """Bring the weight pages back."""


class Stop(WorkerAction, frozen=True):
    """End the process, now, and measure what came back."""


class Dispatch(Action, frozen=True):
    """Let the worker write this answer."""

    ask: str
    model: str
    worker: int


class CancelAnswer(Action, frozen=True):
    """Tell the worker that nobody wants this answer any more."""

    ask: str
    model: str
    worker: int


class Refuse(Action, frozen=True):
    """The ask gets this error, and that is its one reply."""

    ask: str
    problem: str
    message: str
    hint: str = ""
    retry_after: float | None = None


class Changed(Action, frozen=True):
    """The phase of a model changed, and why. For the journal, the API and ``nsorch why``."""

    model: str
    before: str
    after: str
    reason: str


class Granted(Action, frozen=True):
    """What was leased is free, but for what ``held`` (models that still write an answer) hold of it."""

    lease: str
    held: tuple[str, ...] = ()


class Pong(Action, frozen=True):
    """The engine turns."""


class Exit(Action, frozen=True):
    """Nothing is warm and nobody is here: leave."""

    reason: str
