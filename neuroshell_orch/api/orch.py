"""``/orch``: our own API for status and control.

Owns the routes and nothing behind them. Looking never wakes a model nor resets its idle clock; changes are never GET.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from neuroshell_orch.api.limits import PROCESS, take_seat
from neuroshell_orch.api.problems import json_response
from neuroshell_orch.api.requests import read_json, while_connected
from neuroshell_orch.api.schema import Free, Reloaded, SetMode, TakeLease
from neuroshell_orch.api.streams import EventStream

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from neuroshell_orch.service import Service

SMALL: Final = 1 << 16


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def get_status(request: Request) -> Response:
    """The daemon in one look."""
    return json_response(_service(request).status())


async def get_models(request: Request) -> Response:
    """Every registered model as it is now."""
    return json_response(_service(request).status().models)


async def get_model(request: Request) -> Response:
    """One model as it is now."""
    service = _service(request)
    return json_response(service.model_status(service.resolve(request.path_params["model"])))


async def get_why(request: Request) -> Response:
    """Why a model is as warm as it is."""
    return json_response(_service(request).why(request.path_params["model"]))


async def preload(request: Request) -> Response:
    """Make a model HOT; answers when it is."""
    return json_response(await while_connected(request, _service(request).preload(request.path_params["model"])))


async def unload(request: Request) -> Response:
    """Give a model's memory back; answers when its process is gone."""
    return json_response(await while_connected(request, _service(request).unload(request.path_params["model"])))


async def get_modes(request: Request) -> Response:
    """Every mode that can be selected."""
    return json_response(_service(request).modes())


async def put_mode(request: Request) -> Response:
    """Select a mode, lastingly."""
    wanted = await read_json(request, SetMode, SMALL)
    service = _service(request)
    await service.set_mode(wanted.mode, wanted.model)
    return json_response(service.modes())


async def reload(request: Request) -> Response:
    """Read the configuration anew."""
    return json_response(Reloaded(await _service(request).reload()))


async def get_events(request: Request) -> EventStream:
    """Each transition as it is made."""
    take_seat(request)
    return EventStream(_service(request).listeners.listen())


async def get_all_why(request: Request) -> Response:
    """Why every model is as warm as it is."""
    service = _service(request)
    return json_response([service.why(name) for name in service.configuration.models])


async def free(request: Request) -> Response:
    """Take models down the ladder; answers what came back, measured."""
    wanted = await read_json(request, Free, SMALL)
    return json_response(await while_connected(request, _service(request).memory.free(wanted.model, wanted.to)))


async def take_lease(request: Request) -> EventStream:
    """Keep memory free for as long as this connection is open."""
    wanted = await read_json(request, TakeLease, SMALL)
    take_seat(request)
    return EventStream(_service(request).memory.lease(wanted, request.scope.get(PROCESS)))


async def get_leases(request: Request) -> Response:
    """The leases that last."""
    return json_response(_service(request).memory.leases())


async def leases(request: Request) -> Response:
    """One route for both, so that a third method hears of them both."""
    return await take_lease(request) if request.method == "POST" else await get_leases(request)


routes = [
    Route("/orch/events", get_events),
    Route("/orch/why", get_all_why),
    Route("/orch/free", free, methods=["POST"]),
    Route("/orch/leases", leases, methods=["GET", "POST"]),
    Route("/orch/status", get_status),
    Route("/orch/models", get_models),
    Route("/orch/models/{model}", get_model),
    Route("/orch/models/{model}/why", get_why),
    Route("/orch/models/{model}/preload", preload, methods=["POST"]),
    Route("/orch/models/{model}/unload", unload, methods=["POST"]),
    Route("/orch/modes", get_modes),
    Route("/orch/mode", put_mode, methods=["PUT"]),
    Route("/orch/reload", reload, methods=["POST"]),
]
