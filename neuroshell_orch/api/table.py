"""A router that looks at few routes for each request: those whose first and last words can be its path's.

Owns the table of routes by these words. Whatever none of them takes (no such path, another method, a slash too many) is
left to Starlette's router, which looks at all of them in their order. Must not know what a route does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Match, Route, Router

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.routing import BaseRoute
    from starlette.types import Receive, Scope, Send

_Key = tuple[str, str | None]


class Table(Router):
    """Takes the route that Starlette's router would take."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        super().__init__(routes=routes)
        keys = {_key(route.path) for route in routes if isinstance(route, Route)}
        self._by_key: dict[_Key, list[Route]] = {key: [] for key in keys | {(first, None) for first, _last in keys}}
        for route in routes:
            if isinstance(route, Route):
                first, last = _key(route.path)
                for key, some in self._by_key.items():
                    if key[0] == first and last in {None, key[1]}:
                        some.append(route)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http":
            first, _, rest = scope["path"][1:].partition("/")
            some = self._by_key.get((first, rest.rpartition("/")[2])) or self._by_key.get((first, None))
            for route in some or ():
                match, more = route.matches(scope)
                if match is Match.FULL:
                    scope["router"] = self
                    scope["route"] = route
                    scope.update(more)
                    await route.handle(scope, receive, send)
                    return
        await super().app(scope, receive, send)


def _key(path: str) -> _Key:
    """The first word of a route's path and its last one, or None where that can be any."""
    first, _, rest = path[1:].partition("/")
    last = rest.rpartition("/")[2]
    return first, None if "{" in last else last
