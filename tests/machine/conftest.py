"""A booted Debian for each test that asks for one, and its journal beside each failure."""

from __future__ import annotations

from pathlib import Path

import pytest
import roots
from guest import Guest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session", params=list(roots.SUITES))
def suite(request) -> roots.Suite:
    reason = roots.why_not()
    if reason:
        pytest.skip(reason)
    return roots.SUITES[request.param]


@pytest.fixture(scope="session")
def guest(suite):
    """A booted machine, shared by the tests of the run. The checkout lies read-only in /src."""
    machine = Guest(
        suite, binds={CHECKOUT / "neuroshell_orch": "/src/neuroshell_orch", CHECKOUT / "systemd": "/src/systemd"}
    )
    machine.boot()
    yield machine
    machine.poweroff()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" and report.failed:
        for machine in {
            id(one): one for one in getattr(item, "funcargs", {}).values() if isinstance(one, Guest)
        }.values():
            if machine.process is not None:
                lines = machine.journal("-n", "120", "-o", "short-precise")
                report.sections.append((f"journal of the user of {machine.name}", lines))
    return report
