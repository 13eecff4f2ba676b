"""Every (phase, trigger) pair of the lifecycle: where it leads, or that it cannot happen."""

from __future__ import annotations

import itertools

import pytest

from neuroshell_orch.core.lifecycle import MOVING, TABLE, WANT, WARMTH, Act, IllegalTransition, Phase, Trigger, move
from neuroshell_orch.core.warmth import Warmth

# Rows: phases. Columns: the triggers, in the order of the enumeration.
# A cell is the next phase, with the action after a slash; a dot stays; x cannot happen.
EXPECTED = """
COLD . parking/start-standby . loading/start-load x x x x x x
parking stopping/stop . . loading/load PARKED x x x stopping/stop COLD
PARKED stopping/stop . . loading/load x x x x x COLD
loading stopping/stop stopping/stop . . . HOT x x stopping/stop COLD
HOT stopping/stop stopping/stop hibernating/hibernate . x x x x stopping/stop COLD
hibernating stopping/stop stopping/stop . . x x HIBERNATED x stopping/stop COLD
HIBERNATED stopping/stop stopping/stop . waking/wake x x x x x COLD
waking stopping/stop stopping/stop . . x x x HOT stopping/stop COLD
stopping . . . . . . . . . COLD
"""


def _cells():
    for line in EXPECTED.strip().splitlines():
        phase, *cells = line.split()
        for trigger, cell in zip(Trigger, cells, strict=True):
            yield Phase(phase), trigger, cell


@pytest.mark.parametrize(("phase", "trigger", "cell"), list(_cells()))
def test_every_pair(phase, trigger, cell):
    if cell == "x":
        with pytest.raises(IllegalTransition, match=f"{trigger} cannot happen while {phase}"):
            move(phase, trigger)
        return
    name, _, act = cell.partition("/")
    assert move(phase, trigger) == (phase if name == "." else Phase(name), Act(act) if act else None)


def test_the_expectation_covers_the_whole_product():
    assert {(p, t) for p, t, _ in _cells()} == set(itertools.product(Phase, Trigger))


def test_every_resting_phase_is_a_rung_and_every_rung_has_one():
    resting = set(Phase) - MOVING
    assert {WARMTH[phase] for phase in resting} == set(Warmth)
    assert all(WARMTH[phase].name == phase.value for phase in resting)


def test_every_phase_takes_every_wish():
    assert all(set(WANT.values()) <= set(row) for row in TABLE.values())


def test_from_anywhere_a_wish_is_reached_by_taking_the_expected_reports():
    """COLD, PARKED and HOT can be reached from every phase, whatever moves lie between."""
    reports = {
        Phase.PARKING: Trigger.PARKED,
        Phase.LOADING: Trigger.LOADED,
        Phase.HIBERNATING: Trigger.HIBERNATED,
        Phase.WAKING: Trigger.WOKEN,
        Phase.STOPPING: Trigger.GONE,
    }
    for start, wanted in itertools.product(Phase, (Warmth.COLD, Warmth.PARKED, Warmth.HOT)):
        phase = start
        for _ in range(8):
            phase, _act = move(phase, WANT[wanted])
            if phase in MOVING:
                phase, _act = move(phase, reports[phase])
            elif WARMTH[phase] is wanted:
                break
        assert WARMTH[phase] is wanted, (start, wanted, phase)
