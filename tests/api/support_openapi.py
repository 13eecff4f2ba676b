"""For tests of the description: the daemon with a fake model of each kind, and validators made from the document."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import jsonschema
import pytest

from tests.api.support_oip import identity
from tests.support_daemon import Manager
from tests.support_encoder import converted, tiny_encoder
from tests.support_fake import fake_environment
from tests.support_home import private_home
from tests.support_tiny import tiny_genai_folder

MODELS = ["smollm2-135m", "all-minilm-l6-v2", "digits"]


@contextmanager
def served(root, manager_class=Manager, *, real=False, **settings):
    """The daemon with fakes under the names that the examples use, or with tiny models in the real runtimes."""
    with pytest.MonkeyPatch.context() as environment:
        private_home(root, environment)
        manager = manager_class(root)
        try:
            manager.settings(DefaultModel="smollm2-135m", **{"SharedMemory": "yes"} | settings)
            manager.register("digits", identity(root / "digits.onnx", "FP32"), "onnx")
            if real:
                encoder = converted(tiny_encoder(root / "source"), root / "encoder")
                manager.register("smollm2-135m", tiny_genai_folder(root / "tiny"))
                manager.register("all-minilm-l6-v2", encoder, "encoder")
            else:
                # A fake has nothing to give back while it lives, which would be waited for.
                manager.model("smollm2-135m", can_hibernate=False)
                manager.model("all-minilm-l6-v2", "encoder", can_hibernate=False)
                runtimes = "genai=tests.api.fake_obedient,encoder=tests.api.fake_encoder"
                manager.environment = fake_environment() | {"NSORCH_RUNTIMES": runtimes}
            manager.start()
            yield manager
        finally:
            manager.end()
    log = manager.log.read_text()
    assert "Traceback" not in log, log[-20_000:]
    assert "never retrieved" not in log, log[-20_000:]


def validator(document, schema, *, closed=False):
    """For one schema of the document. ``closed``: a property that is not described is an error."""
    components = copy.deepcopy(document["components"])
    if closed:
        for shown in components["schemas"].values():
            if shown.get("properties"):
                shown.setdefault("additionalProperties", False)
    return jsonschema.Draft202012Validator({**schema, "components": components})


def narrowed(document):
    """The description with the names of models that there are, so that what asks one mostly reaches it."""
    document = copy.deepcopy(document)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "model":
                    parameter["schema"] = {"enum": [*(MODELS if path.startswith("/orch") else ["digits"]), "nobody"]}
                elif parameter["name"] == "version":
                    parameter["schema"] = {"enum": ["1", "2"]}
    schemas = document["components"]["schemas"]
    names = {
        **{key: ["smollm2-135m", "nobody"] for key in ("ChatRequest", "TextRequest", "GenerateBody", "ChatBody")},
        **{key: ["all-minilm-l6-v2", "nobody"] for key in ("EmbeddingsRequest", "EmbedBody", "OldBody")},
        **{key: [*MODELS, None, "nobody"] for key in ("Free", "SetMode")},
    }
    for name, models in names.items():
        schemas[name]["properties"]["model"] = {"enum": models}
        if name not in {"Free", "SetMode"}:
            schemas[name]["required"] = sorted({*schemas[name]["required"], "model"})
    # Nothing is fetched from the network, and what others ask is not deleted meanwhile.
    for key in ("model", "name"):
        schemas["PullBody"]["properties"][key] = {"enum": ["nobody", None]}
    gone = {"type": "object", "properties": {"model": {"enum": ["mine", "nobody"]}}, "required": ["model"]}
    document["paths"]["/api/delete"]["delete"]["requestBody"]["content"]["application/json"]["schema"] = gone
    schemas["SetMode"]["properties"]["mode"] = {"enum": ["timeout", "hibernate", "nothing"]}
    return document
