"""What several tests of the daemon need: a graphics card that is none."""

from __future__ import annotations

import json

import pytest

from tests.support_fake import ROOT

GIB = 1 << 30


@pytest.fixture
def card(manager):
    """An 8 GiB card; each worker holds of it what the returned function is given."""
    device = manager.root / "sys/bus/pci/devices/0000:01:00.0"
    (device / "power").mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030000\n")
    (device / "power/runtime_status").write_text("active\n")
    says = manager.root / "gpus.json"

    def holds(each):
        says.write_text(json.dumps({"gpus": [{"total": 8 * GIB, "used": 0, "each": each}]}))

    def keeps(pid, size):
        """The driver goes on counting this for a process, whatever becomes of it."""
        says.write_text(json.dumps({"gpus": [{"total": 8 * GIB, "used": 0, "processes": {pid: size}}]}))

    holds.keeps = keeps
    holds(5 * GIB)
    doubles = ROOT / "tests" / "doubles"
    manager.environment = {
        "NSORCH_SYSFS": str(manager.root / "sys"),
        "NSORCH_FAKE_GPUS": str(says),
        "PYTHONPATH": f"{doubles}:{ROOT}",
    }
    return holds
