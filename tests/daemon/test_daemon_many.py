"""Many models, one machine: whatever is asked in whatever order, the budget holds and everybody gets one answer."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from neuroshell_orch.errors import OrchError
from tests.support_daemon import wait_until

MIB = 1 << 20


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pss(pid):
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


class Sampler(threading.Thread):
    """What all workers take, by the kernel, until stopped."""

    def __init__(self, pid):
        super().__init__()
        self.pid, self.samples, self.over = pid, [], threading.Event()

    def run(self):
        while not self.over.wait(0.05):
            self.samples.append(sum(map(pss, children(self.pid))))


def ask_around(manager, names, seconds, clients):
    """Random asks from several clients; the outcomes."""
    outcomes, end = [], time.monotonic() + seconds

    def client(seed):
        chance = random.Random(seed)
        while time.monotonic() < end:
            name = chance.choice(names)
            try:
                outcomes.append((name, manager.ask(name, model=name)))
            except OrchError as error:
                outcomes.append((name, error))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_random_asks_on_many_models_stay_within_the_budget(manager):
    budget = 300 * MIB
    manager.settings(MemoryBudget=budget, MaxSwapDelay="200ms", MaxQueue=1000)
    names = [f"m{n}" for n in range(12)]
    for name in names:
        manager.model(name, eat_mb=40)
    for n in range(200):
        manager.register(f"other{n}", manager.root / "nowhere.json")
    manager.start()
    manager.get("/orch/status")
    sampler = Sampler(manager.process.pid)
    sampler.start()
    outcomes = ask_around(manager, names, 8.0, 6)
    sampler.over.set()
    sampler.join()
    assert len(outcomes) > 30
    assert all(answer == f"{name} " for name, answer in outcomes), [o for o in outcomes if o[1] != f"{o[0]} "][:3]
    assert max(sampler.samples) <= budget
    assert max(sampler.samples) > 0.4 * budget, "the budget was used"
    assert len({name for name, _ in outcomes}) == len(names)


def test_a_model_that_can_never_fit_is_refused_with_the_arithmetic(manager):
    manager.settings(MemoryBudget="50M")
    manager.model()
    manager.start()
    with pytest.raises(OrchError, match=r"MiB of RAM, and the budget allows 50 MiB") as caught:
        manager.ask()
    assert caught.value.problem == "over-budget"


def test_loading_and_unloading_leaves_nothing_behind(manager):
    manager.settings(Mode="dynamic")
    manager.model()
    manager.start()
    manager.ask()
    manager.wait_phase("COLD")

    def state():
        pid = manager.process.pid
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        dirty = sum(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:"))
        return dirty, len(list(Path(f"/proc/{pid}/fd").iterdir()))

    for _ in range(20):
        manager.ask()
    manager.wait_phase("COLD")
    dirty, descriptors = state()
    for _ in range(60):
        manager.ask()
    manager.wait_phase("COLD")
    wait_until(lambda: state()[1] <= descriptors)
    assert state()[0] <= dirty + 1024, "KiB"
    assert not children(manager.process.pid)


def test_what_a_model_costs_is_measured_and_remembered(manager):
    manager.model(eat_mb=100)
    manager.start()
    manager.ask()
    first = wait_until(lambda: (s := manager.status())["needs_measured"] and s)
    assert 100 * MIB < first["needs"] < 200 * MIB
    manager.process.terminate()
    manager.process.wait()
    assert (manager.root / "state" / "nsorch" / "costs.json").exists()
    manager.start()
    manager.ask()
    assert manager.status()["needs_measured"]


def test_two_clients_on_two_models_that_do_not_fit_together(manager):
    manager.settings(MemoryBudget="110M", MaxSwapDelay="1s", MaxQueue=1000)
    for name in ("a", "b"):
        manager.model(name, delay=0.005)
    manager.start()
    counts, waits, end = {"a": 0, "b": 0}, [], time.monotonic() + 8.0

    def client(name):
        while time.monotonic() < end:
            began = time.monotonic()
            assert manager.ask(name, model=name) == f"{name} "
            waits.append(time.monotonic() - began)
            counts[name] += 1

    threads = [threading.Thread(target=client, args=(name,)) for name in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = manager.log.read_text()
    loads = log.count("loading → HOT")
    assert loads <= 8.0 / 1.0 + 3, "at most one swap in MaxSwapDelay"
    assert max(waits) < 1.0 + 2.0
    assert min(counts.values()) > 0.2 * sum(counts.values())
