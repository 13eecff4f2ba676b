"""The number of threads: what is tried, within what time, and which one is taken."""

from __future__ import annotations

import pytest

from neuroshell_orch.runtimes import tuning
from neuroshell_orch.runtimes.onnxheader import Value


@pytest.mark.parametrize(
    ("cores", "tried"), [(1, [1]), (2, [2, 1]), (4, [4, 3, 2, 1]), (16, [16, 12, 8, 4]), (64, [64, 48, 32, 16])]
)
def test_what_is_tried(cores, tried):
    assert tuning.candidates(cores) == tried


class Clock:
    def __init__(self):
        self.now = 0.0
        self.share = 1.0

    def __call__(self):
        return self.now

    def trial(self, rates, seconds):
        def run(threads, _slice):
            self.now += seconds
            return rates[threads], self.share

        return run


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({4: 10.0, 3: 10.4, 2: 9.0, 1: 5.0}, 4),
        ({4: 10.0, 3: 10.6, 2: 9.0, 1: 5.0}, 3),
        ({4: 10.0, 3: 11.0, 2: 12.0, 1: 5.0}, 2),
    ],
)
def test_all_cores_unless_fewer_are_clearly_better(rates, chosen):
    clock = Clock()
    found = tuning.tune(clock.trial(rates, 1.0), 4, clock)
    assert (found["threads"], found["cores"]) == (chosen, 4)
    assert found["rates"] == {str(threads): rate for threads, rate in rates.items()}


@pytest.mark.parametrize(("seconds", "tried"), [(1.0, 4), (2.0, 2), (3.0, 1), (60.0, 1)])
def test_never_begins_what_would_take_longer_than_five_seconds(seconds, tried):
    clock = Clock()
    found = tuning.tune(clock.trial({4: 1.0, 3: 1.0, 2: 1.0, 1: 1.0}, seconds), 4, clock)
    assert len(found["rates"]) == tried
    assert tried == 1 or clock.now <= tuning.BUDGET


def test_on_a_busy_machine_nothing_was_measured():
    clock = Clock()
    clock.share = 0.5
    assert tuning.tune(clock.trial({2: 1.0, 1: 2.0}, 0.1), 2, clock) is None


def test_what_to_run_a_tensor_model_with():
    feed = tuning.feed_of([Value("x", "FP32", [-1, 3]), Value("input_ids", "INT64", [-1, -1])])
    assert feed["x"].shape == (1, 3)
    assert feed["input_ids"].shape == (1, tuning.PROMPT)
    assert feed["input_ids"].dtype == "int64"
    assert tuning.feed_of([Value("x", "BYTES", [1])]) is None
    assert tuning.feed_of([Value("x", "FP32", None)]) is None
