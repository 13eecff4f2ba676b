"""The fake language model, which keeps to a grammar as a real one must: ``genai=tests.api.fake_obedient``."""

from __future__ import annotations

import json

import msgspec

from tests.workers.fake_runtime import FakeRuntime


def create():
    return Obedient()


class Obedient(FakeRuntime):
    """Where JSON is promised it says the empty object; where a call is required, it calls the first function."""

    def generate(self, request, emit, cancelled):
        said = None
        if request.schema:
            said = "{}"
        elif request.tools is not None and request.tools.required:
            name = json.loads(request.tools.functions)[0]["name"]
            said = '<tool_call>{"name":"' + name + '","arguments":{}}</tool_call>'
        if said is not None:
            request = msgspec.structs.replace(request, prompt=said, max_tokens=0)
        return super().generate(request, emit, cancelled)
