"""The table of routes: whatever Starlette's router does with a request, it does, and only looks at fewer routes."""

from __future__ import annotations

import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route, Router

from neuroshell_orch.api.app import routes
from neuroshell_orch.api.table import Table

WORDS = ("stats", "v1", "a.b", "%2f", "infer", "")


def marked(route):
    async def endpoint(request):
        return Response(repr((route.path, sorted(request.path_params.items()))))

    return Route(route.path, endpoint, methods=sorted(route.methods))


def paths():
    for route in routes:
        for word in WORDS:
            pieces = [word if piece.startswith("{") else piece for piece in route.path.split("/")]
            path = "/".join(pieces)
            yield from (path, path + "/", path + "/more")
    yield from ("/", "//", "/v2/", "/nothing", "/v2//infer", "/v1/nothing", "/orch/models//why")


async def answer(router, method, path):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": [], "query_string": b""}
    scope |= {"app": None, "scheme": "http", "server": ("localhost", None)}
    try:
        await router(scope, None, send)
    except HTTPException as error:
        return error.status_code, error.headers
    return [(m.get("status"), m.get("headers"), m.get("body")) for m in sent], scope["route"].path, scope["path_params"]


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE"])
def test_it_takes_the_route_that_starlette_takes(method):
    own = [marked(route) for route in routes]
    table, plain = Table(own), Router(own)
    table.redirect_slashes = plain.redirect_slashes = False

    async def both():
        for path in set(paths()):
            assert await answer(table, method, path) == await answer(plain, method, path), path

    asyncio.run(both())


def test_an_ask_looks_at_few_routes():
    table = Table(routes)
    assert all(len(some) <= 8 for some in table._by_key.values())
