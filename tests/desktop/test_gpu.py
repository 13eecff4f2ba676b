"""Accelerators by a fake driver and a fake /sys: what is there, what sleeps, what lies."""

from __future__ import annotations

import json
import sys

import pytest

from neuroshell_orch.desktop import gpu
from tests.doubles import pynvml

GIB = 1 << 30


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("NSORCH_SYSFS", str(tmp_path / "sys"))
    monkeypatch.setenv("NSORCH_FAKE_GPUS", str(tmp_path / "gpus.json"))
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    return World(tmp_path)


class World:
    def __init__(self, folder):
        self.folder = folder

    def card(self, status="active", vendor="0x10de", kind="0x030000", slot="0000:01:00.0"):
        device = self.folder / "sys/bus/pci/devices" / slot
        (device / "power").mkdir(parents=True, exist_ok=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
        (device / "power/runtime_status").write_text(f"{status}\n")

    def driver(self, **says):
        (self.folder / "gpus.json").write_text(json.dumps(says))


def test_a_card_and_what_a_process_holds_of_it(world):
    world.card()
    world.driver(gpus=[{"total": 8 * GIB, "used": GIB, "processes": {"42": GIB // 2, "7": 1}}])
    assert gpu.find() == [gpu.Gpu("cuda:0", 8 * GIB, GIB)]
    assert gpu.used_by(42) == {"cuda:0": GIB // 2}
    assert gpu.used_by(99) == {}


def test_a_sleeping_card_is_not_asked_since_that_would_wake_it(world):
    world.card(status="suspended")
    assert gpu.find() == [], "the driver's file does not even exist"
    world.card(vendor="0x1002", slot="0000:02:00.0")
    world.card(kind="0x040300", slot="0000:03:00.0")
    assert gpu.find() == [], "another maker's card, and the sound function of a card"


@pytest.mark.parametrize(
    "says",
    [
        {"no_driver": True},
        {"broken": True, "gpus": []},
        {"gpus": [{"total": None}]},
        {"gpus": [{"total": 0}]},
    ],
)
def test_a_card_that_is_lost_or_says_nothing_is_no_card(world, says):
    world.card()
    world.driver(**says)
    assert gpu.find() == []
    assert gpu.used_by(1) == {}


def test_what_the_driver_may_not_tell_is_nothing(world):
    world.card()
    world.driver(gpus=[{"total": GIB, "used": None, "processes": {"42": None}}])
    assert gpu.find() == [gpu.Gpu("cuda:0", GIB, 0)]
    assert gpu.used_by(42) == {}
