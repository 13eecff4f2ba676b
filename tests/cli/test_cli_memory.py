"""free, events and why: what each prints, beside a service and while it sleeps; and a lease that nobody can give."""

from __future__ import annotations

import json

import pytest

MIB = 1 << 20


def freed(**fields):
    return {"before": 228 * MIB, "after": 2 * MIB, "seconds": 0.041, "expected": 226 * MIB, "lost": ""} | fields


def test_free_says_what_came_back(models):
    rows = [
        {"model": "tiny", "before": "HOT", "after": "COLD", "freed": freed()},
        {"model": "other", "before": "PARKED", "after": "PARKED", "freed": None},
    ]
    models.daemon(freed=rows)
    result = models("free")
    assert result.code == 0
    assert result.out.splitlines() == [
        "tiny: HOT → COLD, freed 226 MiB of 228 MiB in 41 ms.",
        "other is PARKED; nothing had to go.",
    ]
    assert models.log()[-1]["body"] == {"model": None, "to": "cold"}
    assert models("free", "tiny", "--to", "parked", "--json").json == rows
    assert models.log()[-1]["body"] == {"model": "tiny", "to": "parked"}


def test_free_says_what_did_not_come_back_and_why(models):
    lost = freed(vram_before=5120 * MIB, vram_after=2048 * MIB, lost="the driver still counts\x1b[2J it")
    models.daemon(freed=[{"model": "tiny", "before": "HOT", "after": "COLD", "freed": lost}])
    result = models("free", "--all")
    assert "freed 226 MiB of 228 MiB and 3.0 GiB of 5.0 GiB VRAM in 41 ms" in result.out
    assert result.err == "tiny: not all came back: the driver still counts[2J it.\n"


def test_free_beside_a_service_with_nothing_warm(models):
    models.daemon()
    assert models("free").out == "Nothing is warm.\n"


@pytest.mark.parametrize(("arguments", "json_out"), [(["free"], []), (["free", "tiny"], [])], ids=["all", "one"])
def test_free_wakes_nobody(models, arguments, json_out):
    result = models(*arguments)
    assert (result.code, result.out) == (0, "Nothing is warm.\n")
    assert models(*arguments, "--json").json == json_out


def test_free_of_what_is_not_there_and_of_two_things_at_once(models):
    unknown = models("free", "nobody")
    assert unknown.code != 0
    assert "no model named nobody" in unknown.err
    both = models("free", "tiny", "--all")
    assert both.code != 0
    assert "exclude each other" in both.err


def test_events_are_lines_until_the_service_leaves(nsorch):
    events = [
        {"kind": "transition", "at": 1000.0, "model": "tiny", "before": "HOT", "after": "COLD", "reason": "i\x1bdle"},
        {"kind": "exit", "at": 1001.0, "reason": "idle"},
    ]
    nsorch.daemon(events=events)
    first, last = nsorch("events").out.splitlines()
    assert first.endswith("tiny: HOT → COLD  idle")
    assert last.endswith("exit  idle")
    assert [json.loads(line) for line in nsorch("events", "--json").out.splitlines()] == events


def test_events_of_a_sleeping_service_are_none(nsorch):
    result = nsorch("events")
    assert (result.code, result.out) == (0, "")
    assert "sleeps" in result.err


def test_why_of_all_models(models):
    models.daemon()
    assert "tiny is HOT: answered an ask" in models("why").out
    assert [why["model"] for why in models("why", "--json").json] == ["tiny"]


def test_why_of_all_models_while_the_service_sleeps(models):
    lines = [line for line in models("why").out.splitlines() if " is COLD" in line]
    assert [line.split()[0] for line in lines] == ["other", "tiny"]
    assert {why["warmth"] for why in models("why", "--json").json} == {"COLD"}


def test_ps_tells_of_a_loss_below_its_table(nsorch):
    nsorch.daemon(status={"models": [MODEL | {"freed": freed(lost="still there")}]})
    result = nsorch("ps")
    assert "226 MiB of 228 MiB, not all" in result.out
    assert result.err == "tiny: not all memory came back: still there.\n"


MODEL = {
    "name": "tiny",
    "path": "/models/tiny",
    "runtime": "genai",
    "mode": "timeout",
    "warmth": "COLD",
    "phase": "COLD",
    "reason": "idle",
    "since": 1000.0,
}


def test_a_lease_says_who_still_writes_and_ends_with_its_command(nsorch):
    nsorch.daemon(events=[{"held": ["tiny"]}])
    result = nsorch("lease", "--name", "game", "--", "sh", "-c", "exit 7")
    assert result.code == 7
    assert "tiny still writes an answer" in result.err
    body = next(line["body"] for line in nsorch.log() if line["path"] == "/orch/leases")
    assert body == {"name": "game", "memory": False}


def test_a_lease_of_a_command_that_is_not_there(nsorch):
    nsorch.daemon(events=[{"held": []}])
    result = nsorch("lease", "--", "/no/such/program")
    assert result.code != 0
    assert "cannot be run" in result.err


def test_without_a_service_there_is_no_lease_and_the_command_is_not_run(nsorch, tmp_path):
    mark = tmp_path / "mark"
    result = nsorch("lease", "--", "touch", str(mark))
    assert result.code != 0
    assert not mark.exists()
