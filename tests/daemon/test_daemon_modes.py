"""The five modes, seen from outside: what each leaves behind after its idle time, as the kernel counts it."""

from __future__ import annotations

import time

import pytest

from neuroshell_orch.errors import OrchError
from tests.support_daemon import alive, wait_until


def test_dynamic_is_cold_right_after_the_answer(manager):
    manager.settings(Mode="dynamic")
    manager.model()
    manager.start()
    manager.ask()
    status = manager.wait_phase("COLD")
    assert status["pid"] is None
    assert status["memory"] is None
    assert status["freed"]["after"] == 0


def test_dynamic_with_standby_keeps_a_parked_worker(manager):
    manager.settings(Mode="dynamic")
    manager.mode("dynamic", Standby="yes")
    manager.model()
    manager.start()
    manager.ask()
    status = manager.wait_phase("PARKED")
    assert alive(status["pid"])
    assert manager.ask("again") == "again "


def test_persistent_loads_the_default_model_at_start_and_keeps_it(manager):
    manager.settings(Mode="persistent")
    manager.model("fake")
    manager.model("other")
    manager.start()
    status = manager.wait_phase("HOT")
    assert status["next_at"] is None
    assert manager.phase("other") == "COLD", "others are loaded when they are asked"
    manager.ask(model="other")
    assert manager.phase("other") == "HOT"


def test_timeout_is_cold_after_its_idle_time(manager):
    manager.mode("timeout", IdleSec="300ms")
    manager.model()
    manager.start()
    manager.ask()
    status = manager.status()
    assert (status["phase"], status["next_warmth"]) == ("HOT", "COLD")
    pid = status["pid"]
    manager.wait_phase("COLD")
    assert not alive(pid)


def test_dummy_swap_parks_in_a_new_process(manager):
    manager.settings(Mode="dummy-swap")
    manager.mode("dummy-swap", IdleSec="300ms")
    manager.model()
    manager.start()
    manager.ask()
    hot = manager.status()["pid"]
    parked = manager.wait_phase("PARKED")
    assert parked["pid"] != hot
    assert not alive(hot), "a worker that held weights is replaced, not emptied"
    assert manager.ask("again") == "again "
    assert manager.status()["pid"] == parked["pid"], "the standby worker loaded the model"


def test_hibernate_keeps_the_process_wakes_it_and_forgets_it(manager):
    manager.settings(Mode="hibernate")
    manager.mode("hibernate", IdleSec="200ms", ForgetSec="1500ms")
    manager.model(can_hibernate=True)
    manager.start()
    before = manager.ask("same words")
    hot = manager.status()["pid"]
    assert manager.wait_phase("HIBERNATED")["pid"] == hot
    assert manager.ask("same words") == before
    assert manager.status()["pid"] == hot
    manager.wait_phase("HIBERNATED")
    manager.wait_phase("COLD")
    assert not alive(hot)


def test_a_mode_for_one_model_leaves_the_others_alone(manager):
    manager.model("fake")
    manager.model("other")
    manager.start()
    manager.ask(model="fake")
    manager.ask(model="other")
    manager.client().call("PUT", "/orch/mode", {"mode": "dynamic", "model": "other"})
    manager.wait_phase("COLD", "other")
    assert manager.phase("fake") == "HOT"
    assert manager.status("other")["mode"] == "dynamic"


def test_selecting_a_mode_takes_effect_at_once_and_survives_a_restart(manager):
    manager.model()
    manager.start()
    manager.ask()
    modes = manager.client().call("PUT", "/orch/mode", {"mode": "dynamic"})
    assert [mode["name"] for mode in modes if mode["active"]] == ["dynamic"]
    manager.wait_phase("COLD")
    manager.process.terminate()
    manager.process.wait()
    manager.start()
    assert manager.get("/orch/status")["mode"] == "dynamic"


def test_an_unknown_mode_is_refused_with_the_list(manager):
    manager.start()
    with pytest.raises(OrchError, match="turbo") as caught:
        manager.client().call("PUT", "/orch/mode", {"mode": "turbo"})
    assert caught.value.problem == "mode-unknown"
    assert "dummy-swap" in str(caught.value)


def test_switching_modes_during_an_answer_never_cuts_it(manager):
    manager.model(tokens=150, delay=0.005)
    manager.start()
    events = manager.stream("w")
    next(events)
    for mode in ("dynamic", "hibernate", "dummy-swap", "persistent", "dynamic"):
        manager.client().call("PUT", "/orch/mode", {"mode": mode})
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
    assert text.split() == ["w"] * 150


def test_why_names_the_reason_and_what_comes_next(manager):
    manager.model()
    manager.start()
    manager.ask()
    why = manager.get("/orch/models/fake/why")
    assert why["warmth"] == "HOT"
    assert "; COLD in " in why["outlook"]
    assert [(t["before"], t["after"]) for t in why["transitions"]] == [("COLD", "loading"), ("loading", "HOT")]
    assert all(t["reason"] and abs(t["at"] - time.time()) < 60 for t in why["transitions"])


def test_looking_does_not_reset_the_idle_clock(manager):
    manager.mode("timeout", IdleSec="700ms")
    manager.model()
    manager.start()
    manager.ask()
    began = time.monotonic()
    for path in ("/orch/status", "/orch/models/fake", "/v1/models", "/v2/health/ready", "/orch/models/fake/why"):
        manager.get(path)
    wait_until(lambda: manager.phase() == "COLD")
    assert time.monotonic() - began < 10
