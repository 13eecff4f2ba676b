"""``/openapi.json``: no route is missing, it is valid, and what the daemon answers is what it says."""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from neuroshell_orch.api.app import routes
from neuroshell_orch.api.openapi_document import document, error_of, operations
from neuroshell_orch.client import connect
from neuroshell_orch.errors import PROBLEMS
from tests.api.support_openapi import served, validator

DOCUMENT = document()
SCHEMAS = DOCUMENT["components"]["schemas"]


def test_it_is_valid():
    assert not list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors())


def test_no_route_is_missing_and_none_is_made_up():
    there = set()
    for route in routes:
        assert isinstance(route, Route)
        path = re.sub(r"{(\w+)(:\w+)?}", r"{\1}", route.path)
        methods = set(route.methods)
        there |= {(method, path) for method in methods - ({"HEAD"} if "GET" in methods else set())}
    described = [(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods]
    assert sorted(described) == sorted(there)
    assert len(list(operations())) == len(described), "one is described twice"


def test_every_operation_has_a_name_of_its_own_and_a_purpose():
    found = [one for methods in DOCUMENT["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in found}) == len(found)
    assert all(one["summary"] and one["tags"] for one in found)


def test_types_have_short_names_and_say_what_they_are():
    assert all(re.fullmatch(r"[A-Za-z]+", name) for name in SCHEMAS), "two types of one name"
    unsaid = [name for name, schema in SCHEMAS.items() if not schema.get("description")]
    assert not unsaid


def test_every_problem_is_known_and_told_somewhere():
    told = set().union(*(operation.problems for _, operation in operations()))
    assert told <= set(PROBLEMS)
    for _, operation in operations():
        shown = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
        for problem in operation.problems:
            assert f"`{problem}`" in shown[str(PROBLEMS[problem].status)]["description"]


def test_examples_fit_their_types():
    for _, operation in operations():
        if operation.example is not None:
            schema = DOCUMENT["paths"][operation.path][operation.method.lower()]["requestBody"]["content"]
            validator(DOCUMENT, schema["application/json"]["schema"]).validate(operation.example)


def test_the_page_is_up_to_date():
    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location("api_page", root / "packaging" / "api_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (root / "docs" / "api.md").read_text(encoding="utf-8")
    assert written == module.page(), "run: python packaging/api_page.py"


def test_the_daemon_starts_without_it():
    code = "import sys, neuroshell_orch.daemon; sys.exit('neuroshell_orch.api.openapi_document' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


# ---- what the daemon answers ----


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with served(tmp_path_factory.mktemp("served")) as manager:
        yield manager


def request(manager, method, path, body=None):
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = connect(manager.path)
    connection.sock.settimeout(60)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        media = (response.getheader("content-type") or "").partition(";")[0]
        endless = path in {"/orch/events", "/orch/leases"} and media == "text/event-stream"
        return response.status, media, _first_event(response) if endless else response.read()
    finally:
        connection.close()


def _first_event(response):
    while not (line := response.readline()).startswith(b"data:"):
        assert line, "it ended before its first event"
    return line


def path_of(operation):
    model = {"/v2/m": "digits", "/v2/r": "digits"}.get(operation.path[:5], "smollm2-135m")
    return operation.path.format(model=model, version="1", region="r", digest="sha256:0", rest="status")


STREAMED = [operation for _, operation in operations() if operation.stream and operation.answer and operation.example]
# In this order: what is copied can be deleted, what is unloaded comes last.
ONCE = sorted(
    (operation for _, operation in operations() if operation.path not in {"/orch/events", "/api/pull"}),
    key=lambda operation: ("delete" in operation.path, "unload" in operation.path, "/free" in operation.path),
)
REFUSED_HERE = {"/v2/systemsharedmemory/region/{region}/status": 404}
"""With another status than 200, since there is no such region."""


@pytest.mark.parametrize("operation", ONCE, ids=lambda operation: f"{operation.method} {operation.path}")
def test_answers_are_as_described(daemon, operation):
    body = operation.example
    status, media, content = request(daemon, operation.method, path_of(operation), body)
    described = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
    expected = 400 if operation.never else REFUSED_HERE.get(operation.path, 200)
    if operation.path.endswith("/register"):
        expected = 404
    assert status == expected, content
    hold(described[str(status)], media, content)


@pytest.mark.parametrize("operation", STREAMED, ids=lambda operation: operation.path)
def test_streams_are_as_described(daemon, operation):
    body = operation.example | {"stream": True}
    if operation.path.startswith("/v1"):
        body["stream_options"] = {"include_usage": True}
    status, media, content = request(daemon, operation.method, operation.path, body)
    described = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
    assert (status, media) == (200, operation.stream.media), content
    assert hold(described["200"], media, content) > 2


def test_events_are_as_described(daemon):
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = connect(daemon.path)
    connection.sock.settimeout(60)
    try:
        connection.request("GET", "/orch/events")
        response = connection.getresponse()
        daemon.post("/orch/models/digits/preload")
        daemon.post("/orch/models/digits/unload")
        line = _first_event(response)
    finally:
        connection.close()
    described = DOCUMENT["paths"]["/orch/events"]["get"]["responses"]["200"]
    assert hold(described, "text/event-stream", line) == 1


@pytest.mark.parametrize("path", ["/v1/models/nope", "/v2/models/nope", "/orch/models/nope"])
def test_problems_are_as_described(daemon, path):
    status, media, content = request(daemon, "GET", path)
    template = path.replace("nope", "{model}")
    assert status == 404
    hold(DOCUMENT["paths"][template]["get"]["responses"]["404"], media, content)
    assert error_of(path).__name__ in json.dumps(DOCUMENT["paths"][template])


def test_it_is_served(daemon):
    status, media, content = request(daemon, "GET", "/openapi.json")
    assert (status, media) == (200, "application/json")
    assert json.loads(content) == json.loads(json.dumps(DOCUMENT))


def hold(described, media, content):
    """Hold an answer to its description, in which nothing may be missing either. How many items it had."""
    shown = described.get("content")
    if shown is None:
        assert content == b""
        return 0
    assert media in shown, f"{media} is not described"
    if media == "application/json":
        items, schema = [json.loads(content)], shown[media]["schema"]
    elif media == "text/plain":
        assert content.decode() == shown[media]["schema"]["const"]
        return 1
    else:
        lines = [line.removeprefix(b"data: ") for line in content.splitlines() if line and not line.startswith(b":")]
        items = [json.loads(line) for line in lines if line != b"[DONE]"]
        schema = shown[media]["x-itemSchema"]
    for item in items:
        try:
            validator(DOCUMENT, schema, closed=True).validate(item)
        except jsonschema.ValidationError as error:
            raise AssertionError(f"{list(error.absolute_path)}: {error.message[:300]}") from error
    return len(items)
