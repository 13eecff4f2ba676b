"""schemathesis, as anybody would run it, against the daemon on the loopback port: no 5xx, only what is described.

In the test suite it is a small and repeatable run with fakes. ``NSORCH_FUZZ=200`` makes so many examples of each
operation, each time others, and does so with tiny models in the real runtimes as well. Left out are the two streams
that end only with their connection, and the check that whatever fits a schema is answered with success: some fields
exclude each other, which a schema does not say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from neuroshell_orch.api import tokens
from neuroshell_orch.api.openapi_document import document
from tests.api.support_oip import TwoSockets
from tests.api.support_openapi import narrowed, served

EXAMPLES = int(os.environ.get("NSORCH_FUZZ", "0"))


@pytest.mark.timeout(300 + 60 * EXAMPLES)
@pytest.mark.parametrize("real", [False, True] if EXAMPLES else [False], ids=lambda real: "real" if real else "fakes")
def test_the_daemon_keeps_to_its_description(tmp_path, real):
    with served(tmp_path, TwoSockets, real=real, KeepAlivePolicy="server") as manager:
        described = tmp_path / "openapi.json"
        described.write_text(json.dumps(narrowed(document())))
        options = {
            "--url": f"http://127.0.0.1:{manager.port}",
            "--header": f"Authorization: Bearer {tokens.create('fuzz', None, None)}",
            "--phases": "examples,coverage,fuzzing",
            "--max-examples": str(EXAMPLES or 3),
            "--checks": "all",
            "--exclude-checks": "positive_data_acceptance",
            "--exclude-path": "/orch/events",
            "--exclude-operation-id": "post_orch_leases",
            "--request-timeout": "60",
            "--suppress-health-check": "all",
            "--warnings": "off",
        }
        command = [sys.executable, "-m", "schemathesis.cli", "run", str(described), "--no-color"]
        command += [part for option in options.items() for part in option]
        command += ["--continue-on-failure"] if EXAMPLES else ["--generation-deterministic"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
