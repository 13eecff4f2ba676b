"""The guests are what the other machine tests take them for."""

import pytest

pytestmark = [pytest.mark.machine, pytest.mark.timeout(900)]


def test_systemd_and_python_are_those_of_the_suite(guest):
    version = guest.run("systemctl --version").stdout.split()[1]
    assert int(version) == guest.suite.systemd
    assert guest.run("python3 -V").stdout.strip().startswith(f"Python {guest.suite.python}.")


def test_an_ordinary_user_with_a_manager_of_her_own(guest):
    assert guest.run("id -un").stdout.strip() == "alice"
    assert guest.run("systemctl --user is-system-running").stdout.strip() == "running"
    assert guest.run("busctl --user status >/dev/null && echo yes").stdout.strip() == "yes"


def test_the_users_journal_is_kept(guest):
    guest.run("systemd-run --user --quiet --wait --unit=said echo a line for the journal")
    guest.wait_for(lambda: "a line for the journal" in guest.journal("-u", "said"), "the line in the journal")
