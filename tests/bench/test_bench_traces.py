"""The adaptive mode keeps its promises on shortened traces; the seeds are fixed, so this is no matter of luck."""

from __future__ import annotations

import itertools

import pytest

from neuroshell_orch.core.budget import RAM
from tests.bench.cases.traces import ADAPTIVE, FIXED, MODELS, ORACLE, table, verdicts
from tests.bench.simulate import LARGE, SMALL, compare, contestants
from tests.bench.traces import DAY, HOUR, TRACES, Arrival

# Long enough to learn in: what was not learnt yet costs as much as the fixed policy.
SHORT = {"poisson": DAY / 2, "diurnal": 2 * DAY, "bursty": 2 * DAY, "periodic": 5 * DAY, "zipf": 14 * HOUR}


@pytest.mark.parametrize("name", sorted(TRACES))
def test_a_trace_is_the_same_at_every_run_and_in_order(name):
    make, _ = TRACES[name]
    first = make(6 * HOUR)
    assert first == make(6 * HOUR)
    assert all(a.at <= b.at for a, b in itertools.pairwise(first))
    assert all(0 <= arrival.at < 6 * HOUR and arrival.seconds > 0 for arrival in first)


@pytest.mark.parametrize("model", sorted(MODELS))
@pytest.mark.parametrize("name", sorted(TRACES))
def test_the_adaptive_mode_keeps_its_promises(name, model):
    make, _ = TRACES[name]
    results = compare(
        make(SHORT[name]), MODELS[model], SHORT[name], [FIXED, ADAPTIVE, *([ORACLE] if name == "periodic" else [])]
    )
    for verdict in verdicts(name, results):
        assert verdict.kept, verdict.text


def test_every_contestant_counts_what_can_be_counted_by_hand():
    """Three asks of 10 s, 100 s apart; the third finds what the policy left."""
    trace = [Arrival(at, "a", 10.0) for at in (0.0, 100.0, 200.0)]
    results = compare(trace, SMALL, 300.0)
    assert set(results) == set(contestants(SMALL))
    for name, cold, woken in [
        ("fixed 5 min", 1, 0),
        ("LRU, 3 models", 1, 0),
        ("no keep-alive = dynamic", 3, 0),
        ("persistent", 1, 0),
        ("dummy-swap", 1, 2),
        ("hibernate", 1, 2),
        ("adaptive", 1, 0),
        ("oracle", 1, 0),
    ]:
        assert (results[name].cold, results[name].woken) == (cold, woken), name
    hot = SMALL.hot[RAM] / 2**30 / 3600
    assert results["persistent"].held == pytest.approx(300.0 * hot)
    assert results["no keep-alive = dynamic"].held == pytest.approx(3 * 10.54 * hot)
    assert results["no keep-alive = dynamic"].waits == pytest.approx([0.5] * 3)
    assert results["hibernate"].waits == pytest.approx([0.1, 0.1, 0.5])
    assert results["dummy-swap"].waits == pytest.approx([0.35, 0.35, 0.5])
    assert results["oracle"].waits == pytest.approx([0.0, 0.0, 0.5])
    assert len(list(table(results))) == 1 + len(results)


def test_least_recently_used_goes_first():
    trace = [Arrival(10.0 * n, name, 1.0) for n, name in enumerate("abcabcdabc")]
    result = compare(trace, LARGE, 200.0, ["LRU, 3 models"])["LRU, 3 models"]
    assert result.cold == 3 + 1 + 3, "d takes a's place, a takes b's, b takes c's, c takes d's"
