from __future__ import annotations

import sys

import pytest

from tests.support_daemon import Manager


@pytest.fixture
def manager(xdg):
    manager = Manager(xdg)
    yield manager
    manager.end()
    log = manager.log.read_text() if manager.log.exists() else ""
    sys.stdout.write(log)
    assert "Traceback" not in log
    assert "exception was never retrieved" not in log
