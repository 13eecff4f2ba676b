"""The modes: pure functions from a model's history and the time to the warmth we would like it to have.

Owns what each policy wants and when it will want something else. Must not know about workers, phases, or whether
a wish can be granted. A policy is only asked while nobody waits for the model and it writes no answer: then every
mode wants it HOT, which ``wish`` says for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import msgspec

from neuroshell_orch.core.adaptive import decide
from neuroshell_orch.core.course import Costs
from neuroshell_orch.core.history import Gaps
from neuroshell_orch.core.warmth import Warmth


class Parameters(msgspec.Struct, frozen=True):
    """A mode: its name, the policy behind it, and the policy's parameters in seconds (``inf`` is never)."""

    name: str
    policy: str
    idle: float = 300.0
    forget: float = 3600.0
    standby: bool = False
    keep_alive: str = "client"
    """Who decides how long a model stays warm where a client says so: client, server, min or max."""

    @property
    def own_idle(self) -> float:
        """Seconds for which this mode keeps a model warm after an answer."""
        return {"dynamic": 0.0, "persistent": math.inf}.get(self.policy, self.idle)


class Facts(msgspec.Struct):
    """What is known of one model. Instants are on the caller's clock; None means never."""

    asked: bool = False
    """Somebody waits for it, or it is writing an answer."""
    answered: float | None = None
    """When the last answer ended, well or badly."""
    preloaded: float | None = None
    """When it was made ready on request; forgotten at the next answer."""
    keep_alive: float | None = None
    """What the last client who said so wished, in seconds after the answer."""
    cap: Warmth = Warmth.HOT
    """The highest rung that it may stand on until the next ask: somebody wanted its memory, for ``cap_reason``."""
    cap_reason: str = ""
    lost: bool = False
    """Its worker failed or died; forgotten at the next ask. The kernel may have taken it for its memory."""
    eager: bool = False
    """It belongs to those that a persistent mode loads at start."""
    history: Gaps | None = None
    """When it was asked; ``observe`` hears of each ask."""
    costs: Costs | None = None
    """What it holds on each rung and how long each wake takes; None while nothing is known."""


class Wish(msgspec.Struct, frozen=True):
    """The wanted warmth, why, and when to ask again (None: not before something happens)."""

    warmth: Warmth
    reason: str
    again_at: float | None = None


def _span(seconds: float) -> str:
    """A short time span for a sentence, as people write it: 45 s, 5 min, 2 h."""
    if math.isinf(seconds):
        return "ever"
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _last_use(facts: Facts) -> float | None:
    """When it was last asked for or made ready, whichever is later."""
    uses = [at for at in (facts.answered, facts.preloaded) if at is not None]
    return max(uses) if uses else None


def _dynamic(mode: Parameters, facts: Facts, now: float) -> Wish:  # noqa: ARG001 - every policy has this shape
    if facts.preloaded is not None:
        return Wish(Warmth.HOT, "made ready for the next ask")
    if facts.answered is None:
        return Wish(Warmth.COLD, "nobody has asked")
    if mode.standby:
        return Wish(Warmth.PARKED, "the answer is done and Standby=yes keeps a worker")
    return Wish(Warmth.COLD, "the answer is done")


def _persistent(mode: Parameters, facts: Facts, now: float) -> Wish:  # noqa: ARG001
    if facts.eager:
        return Wish(Warmth.HOT, "persistent, loaded at start")
    if _last_use(facts) is None:
        return Wish(Warmth.COLD, "nobody has asked")
    return Wish(Warmth.HOT, "persistent")


def _timeout(mode: Parameters, facts: Facts, now: float) -> Wish:
    return _after_idle(mode, facts, now, Warmth.COLD)


def _dummy_swap(mode: Parameters, facts: Facts, now: float) -> Wish:
    return _after_idle(mode, facts, now, Warmth.PARKED)


def _hibernate(mode: Parameters, facts: Facts, now: float) -> Wish:
    last = _last_use(facts)
    if last is not None and now >= last + mode.forget:
        return Wish(Warmth.COLD, f"not asked for {_span(mode.forget)}")
    wish = _after_idle(mode, facts, now, Warmth.HIBERNATED)
    if wish.warmth is Warmth.HIBERNATED and last is not None and not math.isinf(mode.forget):
        return Wish(wish.warmth, wish.reason, last + mode.forget)
    return wish


def _adaptive(mode: Parameters, facts: Facts, now: float) -> Wish:
    if facts.preloaded is not None and now < facts.preloaded + mode.idle:
        return Wish(Warmth.HOT, "made ready for the next ask", facts.preloaded + mode.idle)
    found = _by_habit(mode, facts, now)
    return _after_idle(mode, facts, now, Warmth.COLD) if found is None else found


def _by_habit(mode: Parameters, facts: Facts, now: float) -> Wish | None:
    """What the history of asks says; None while there is too little of it."""
    if facts.history is None:
        return None
    fresh = facts.answered is None and facts.preloaded is None
    found = decide(facts.history, facts.costs or Costs(), mode.idle, now, fresh=fresh)
    return None if found is None else Wish(found.warmth, found.reason, found.again_at)


def _after_idle(mode: Parameters, facts: Facts, now: float, rest: Warmth) -> Wish:
    """HOT until ``IdleSec`` after the last use, then ``rest``."""
    last = _last_use(facts)
    if last is None:
        return Wish(Warmth.COLD, "nobody has asked")
    if now >= last + mode.idle:
        return Wish(rest, f"idle for {_span(mode.idle)}")
    until = None if math.isinf(mode.idle) else last + mode.idle
    return Wish(Warmth.HOT, f"asked less than {_span(mode.idle)} ago", until)


Policy = Callable[[Parameters, Facts, float], Wish]

POLICIES: Final[dict[str, Policy]] = {
    "dynamic": _dynamic,
    "persistent": _persistent,
    "timeout": _timeout,
    "dummy-swap": _dummy_swap,
    "hibernate": _hibernate,
    "adaptive": _adaptive,
}


def wish(mode: Parameters, facts: Facts, now: float) -> Wish:
    """What ``mode`` wants for a model with these ``facts`` at ``now``."""
    if facts.asked:
        return Wish(Warmth.HOT, "asked")
    if facts.cap is Warmth.COLD:
        return Wish(Warmth.COLD, facts.cap_reason)
    wanted = _by_policy(mode, facts, now)
    if wanted.warmth > facts.cap:
        return Wish(facts.cap, facts.cap_reason, wanted.again_at)
    return wanted


def _by_policy(mode: Parameters, facts: Facts, now: float) -> Wish:
    """What the mode wants while nobody asks and nobody else wants the memory."""
    if facts.lost and mode.policy != "persistent":
        return Wish(Warmth.COLD, "its worker was lost; the next ask starts a new one")
    idle = _idle_wanted(mode, facts)
    if idle is not None and idle != mode.own_idle:
        return _kept_alive(mode, facts, now, idle)
    return POLICIES[mode.policy](mode, facts, now)


def _idle_wanted(mode: Parameters, facts: Facts) -> float | None:
    """How long a client's wish keeps the model warm under this mode; None where nobody wished."""
    if facts.keep_alive is None or mode.keep_alive == "server":
        return None
    if mode.keep_alive == "client":
        return facts.keep_alive
    return (min if mode.keep_alive == "min" else max)(facts.keep_alive, mode.own_idle)


def _kept_alive(mode: Parameters, facts: Facts, now: float, idle: float) -> Wish:
    """HOT for the client's time, then where the mode lets a model rest."""
    last = _last_use(facts)
    until = math.inf if last is None else last + idle
    if now < until:
        again = None if math.isinf(until) else until
        return Wish(Warmth.HOT, f"its client wants it kept for {_span(idle)}", again)
    if mode.policy == "adaptive":
        return _by_habit(mode, facts, now) or Wish(Warmth.COLD, f"its client wanted it kept for {_span(idle)}")
    resting = Parameters(
        mode.name, "timeout" if mode.policy == "persistent" else mode.policy, 0.0, mode.forget, mode.standby
    )
    return POLICIES[resting.policy](resting, facts, now)
