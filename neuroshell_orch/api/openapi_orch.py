"""The routes of ``/orch`` in words and types: our own convention, and the description of them all.

The types are those that the daemon fills and the client reads. Must not know how anything is done.
"""

from __future__ import annotations

from typing import Any, Final

from neuroshell_orch.api import schema
from neuroshell_orch.api.openapi_parts import BODY, CONFIG, LOAD, NAMED, Items, Operation

_EVENTS: Final = "text/event-stream"

OPERATIONS: Final = [
    Operation("GET", "/orch/status", "The daemon in one look", schema.Status),
    Operation("GET", "/orch/models", "Every registered model as it is now", list[schema.ModelStatus]),
    Operation("GET", "/orch/models/{model}", "One model as it is now", schema.ModelStatus, problems=NAMED),
    Operation("GET", "/orch/models/{model}/why", "Why a model is as warm as it is", schema.Why, problems=NAMED),
    Operation("GET", "/orch/why", "Why every model is as warm as it is", list[schema.Why]),
    Operation(
        "POST",
        "/orch/models/{model}/preload",
        "Load a model; answered when it is HOT",
        schema.ModelStatus,
        problems=LOAD | NAMED,
    ),
    Operation(
        "POST",
        "/orch/models/{model}/unload",
        "Give a model's memory back; answered when its process is gone",
        schema.ModelStatus,
        problems=NAMED,
    ),
    Operation(
        "POST",
        "/orch/free",
        "Take models down the ladder; answers what came back, measured",
        list[schema.FreedModel],
        schema.Free,
        BODY | NAMED | {"unsupported"},
        example={"to": "cold"},
    ),
    Operation("GET", "/orch/modes", "Every mode that can be selected", list[schema.ModeInfo]),
    Operation(
        "PUT",
        "/orch/mode",
        "Select a mode, lastingly",
        list[schema.ModeInfo],
        schema.SetMode,
        BODY | NAMED | CONFIG | {"mode-unknown"},
        example={"mode": "timeout"},
    ),
    Operation("POST", "/orch/reload", "Read the configuration anew", schema.Reloaded, problems=CONFIG),
    Operation(
        "GET",
        "/orch/events",
        "Changes as they happen",
        note="It ends when the daemon does, and keeps nobody awake.",
        stream=Items(_EVENTS, schema.Happened),
        problems=frozenset({"too-many-streams"}),
    ),
    Operation(
        "POST",
        "/orch/leases",
        "Keep memory free for as long as this connection is open",
        note="One event says that the memory is free.",
        stream=Items(_EVENTS, schema.LeaseGranted),
        body=schema.TakeLease,
        problems=BODY | {"too-many-streams", "unsupported", "over-budget"},
        example={"name": "a game"},
    ),
    Operation("GET", "/orch/leases", "The leases that last", list[schema.LeaseInfo]),
    Operation("GET", "/openapi.json", "This description", dict[str, Any]),
]
