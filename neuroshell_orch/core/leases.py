"""Ceilings: the highest rung that a model may stand on now, and why. Their first user is a lease.

Owns the arithmetic of leases: which resources one takes, which models stand in its way, who waits and who runs on the
processor meanwhile. Reads the state and changes nothing (``step`` and ``settle`` do). A lease of the accelerators
leaves models alone that take only RAM; one of the memory leaves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from neuroshell_orch.core.budget import RAM, Bytes, Cost
from neuroshell_orch.core.lifecycle import Phase
from neuroshell_orch.core.warmth import Warmth

if TYPE_CHECKING:
    from neuroshell_orch.core.state import Model, State

GRANT_SECONDS: Final = 30.0
"""Answers that are being written when a lease is asked for may take this long; then it is granted without theirs."""

ON_CPU: Final = "cpu"


class Lease(msgspec.Struct):
    """A promise that memory stays free until its holder is gone. ``was`` is what is given back afterwards."""

    name: str
    label: str
    memory: bool
    since: float
    deadline: float
    holder: tuple[int, int] | None = None
    granted: bool = False
    was: dict[str, Warmth] = msgspec.field(default_factory=dict)

    def takes(self, sizes: Bytes) -> bool:
        """Whether ``sizes`` needs something of what is leased."""
        return any(size > 0 and (self.memory or resource != RAM) for resource, size in sizes.items())


class Ceiling(msgspec.Struct, frozen=True):
    """The highest rung that is allowed now, and the reason."""

    warmth: Warmth
    reason: str


def stands_in(lease: Lease, model: Model) -> bool:
    """Whether ``model`` holds something of what is leased."""
    return model.phase is not Phase.COLD and (lease.memory or lease.takes(model.reserved))


def holders(state: State, lease: Lease) -> list[str]:
    """The models that still hold something of what is leased."""
    return [model.name for model in state.models.values() if stands_in(lease, model)]


def covering(state: State, cost: Cost) -> Lease | None:
    """The lease that a model of this cost, if it were HOT, would break; one of the memory before others."""
    if not state.leases:
        return None
    found = [lease for lease in state.leases.values() if lease.memory or lease.takes(cost.hot)]
    return max(found, key=lambda lease: lease.memory, default=None)


def detour(state: State, model: Model) -> bool:
    """Whether ``model`` is to be loaded on the processor for the time being."""
    if state.limits.on_lease != ON_CPU or not state.leases:
        return False
    lease = covering(state, model.plan.cost)
    return lease is not None and not lease.memory


def on_processor(cost: Cost) -> Cost:
    """What a model costs that is kept off the accelerators. What it held there it needs of the RAM."""
    moved = sum(size for resource, size in cost.hot.items() if resource != RAM)
    return msgspec.structs.replace(cost, hot={RAM: max(cost.hot.get(RAM, 0), moved)})


def ceiling(state: State, model: Model) -> Ceiling | None:
    """How warm ``model`` may be; None where nothing limits it."""
    lease = covering(state, model.plan.cost)
    if lease is None or (detour(state, model) and (model.waiting or model.detoured)):
        return None
    what = "memory" if lease.memory else "accelerator"
    reason = f"the {what} is leased to {lease.label}"
    resting = not lease.memory and model.phase is Phase.PARKED
    return Ceiling(Warmth.PARKED if resting else Warmth.COLD, reason)


def refusal(state: State, name: str) -> str:
    """Why an ask for ``name`` is refused while a lease lasts, or nothing."""
    lease = covering(state, state.plans[name].cost)
    if lease is None or state.limits.on_lease != "refuse":
        return ""
    what = "memory" if lease.memory else "accelerator's memory"
    return f"{name} needs {what}, which is leased to {lease.label} until that ends."


def warm_now(model: Model) -> Warmth:
    """What a lease that takes ``model`` down owes it: nothing where only the answer in hand kept it."""
    if model.phase is not Phase.HOT:
        return model.warmth
    return Warmth.COLD if model.busy and model.plan.mode.policy == "dynamic" else Warmth.HOT
