"""The Debian package of this checkout, installed where nothing of ours was: it does its work and leaves no trace."""

import json
import shutil
import subprocess

import deb
import pytest
import roots
from guest import Guest

from tests import support_models

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1200)]

UNITS = ("nsorch.socket", "nsorch.service", "nsorch-http.socket")
INSTALL = "apt-get -q -y -o Dpkg::Options::=--force-unsafe-io {} </dev/null"
VENV = "/usr/lib/nsorch/venv"
OTHERS_STATE = ("/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/", "/var/log/", "/var/lib/systemd/", "/var/tmp/")
"""What dpkg, apt and systemd write for themselves."""


@pytest.fixture(scope="module")
def package():
    reason = deb.why_not()
    if reason:
        pytest.skip(reason)
    return deb.build()


@pytest.fixture(scope="module")
def guest(package):
    """A machine of the host's own Debian, and the package and a model beside it."""
    binds = {package.parent: "/deb", support_models.smollm2_folder(): "/models/smollm2-135m"}
    machine = Guest(roots.SUITES[deb.host()], binds=binds)
    machine.boot()
    machine.files = files(machine)
    yield machine
    machine.poweroff()


@pytest.fixture(scope="module")
def installed(guest, package):
    """The package is installed, and nobody did anything with it yet."""
    guest.run(INSTALL.format(f"install /deb/{package.name}"), user="root", timeout=400)
    return guest


@pytest.fixture
def serving(installed):
    """Alice has switched it on and has a model."""
    installed.run("nsorch model show smollm2-135m || nsorch model add smollm2-135m /models/smollm2-135m", timeout=120)
    installed.run("nsorch model default smollm2-135m && systemctl --user enable --now nsorch.socket")
    return installed


def files(machine):
    """Every file that programs installed or wrote, but for the notes of dpkg, apt and systemd."""
    found = machine.run("find /usr /etc /var /opt /srv /lib /bin", user="root", timeout=120).stdout.splitlines()
    return {path for path in found if not path.startswith(OTHERS_STATE)}


def processes(machine):
    command = "for one in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$one; echo; done"
    return [line for line in machine.run(command, user="root", check=False).stdout.splitlines() if "nsorch" in line]


def ask(machine):
    return machine.run('nsorch ask --temperature 0 "What is the capital of France?"', timeout=120).stdout


def main_pid(machine):
    return machine.run("systemctl --user show -P MainPID nsorch.service").stdout.strip()


def test_it_depends_on_this_python_and_on_what_its_libraries_need(package):
    fields = subprocess.run(["dpkg-deb", "-f", package, "Depends"], capture_output=True, text=True, check=True).stdout
    depends = {part.strip() for part in fields.split(",")}
    major, minor = map(int, roots.SUITES[deb.host()].python.split("."))
    assert {f"python3 (>= {major}.{minor})", f"python3 (<< {major}.{minor + 1})", "dbus-user-session"} <= depends
    assert {part.split()[0] for part in depends} >= {"libc6", "libstdc++6", "libsystemd0"}


def test_nothing_runs_and_nothing_is_enabled_after_the_installation(installed):
    assert processes(installed) == []
    for unit in UNITS:
        assert installed.run(f"systemctl --user is-enabled {unit}", check=False).stdout.strip() == "disabled"
        assert installed.run(f"systemctl --user is-active {unit}", check=False).stdout.strip() == "inactive"
    assert installed.run("find /etc/systemd ~/.config -name '*nsorch*'", check=False).stdout == ""
    # Nor would a distribution's presets switch it on.
    installed.run("systemctl --global preset nsorch.socket nsorch.service nsorch-http.socket", user="root")
    assert installed.run("find /etc/systemd/user -name '*nsorch*'", user="root").stdout == ""


def test_the_units_are_silent(installed):
    done = installed.run("cd /usr/lib/systemd/user && systemd-analyze --user verify " + " ".join(UNITS))
    assert (done.stdout, done.stderr) == ("", "")
    newer = installed.run("test -e /usr/lib/systemd/user/nsorch.service.d/50-notify-reload.conf", check=False)
    assert (newer.returncode == 0) is (installed.suite.systemd >= 253)


def test_the_configuration_is_good_and_comes_from_where_the_manual_says(installed):
    checked = installed.run("nsorch config check")
    assert "warning" not in checked.stdout + checked.stderr
    shown = json.loads(installed.run("nsorch mode show timeout --json").stdout)
    assert "/usr/lib/nsorch/modes.d/timeout.conf" in json.dumps(shown)
    installed.write("/etc/nsorch/modes.d/timeout.conf", "[Mode]\nPolicy=timeout\nIdleSec=7\n", user="root")
    shown = installed.run("nsorch mode show timeout --json").stdout
    installed.run("rm -r /etc/nsorch", user="root")
    assert "/etc/nsorch/modes.d/timeout.conf" in shown


def test_an_ask_is_answered(serving):
    assert "Paris" in ask(serving)
    told = json.loads(serving.run("nsorch ps --json").stdout)
    assert [(model["name"], model["warmth"]) for model in told] == [("smollm2-135m", "HOT")]
    assert any(line.startswith(f"{VENV}/bin/python3 -I /usr/bin/nsorch serve") for line in processes(serving))


def test_the_journal_explains_its_messages(serving):
    ask(serving)
    serving.wait_for(
        lambda: "The local AI service of this user is ready" in serving.journal("-x", "-u", "nsorch.service"),
        "the text of the catalogue",
    )


def test_the_manual_pages_render(installed):
    if shutil.which("groff") is None:
        pytest.skip("not installed: groff (apt-get install groff)")
    for page in ("man1/nsorch.1", "man5/nsorch.conf.5"):
        text = installed.run(f"zcat /usr/share/man/{page}.gz").stdout
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww"], input=text, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        assert "nsorch" in done.stdout


def test_bash_completes(installed):
    script = """
    source /usr/share/bash-completion/completions/nsorch
    COMP_WORDS=(nsorch mo); COMP_CWORD=1
    $(complete -p nsorch | sed 's/.*-F \\([^ ]*\\).*/\\1/') nsorch mo nsorch
    echo "${COMPREPLY[@]}"
    """
    assert installed.run(script).stdout.split() == ["mode", "model"]
    for path in ("zsh/vendor-completions/_nsorch", "fish/vendor_completions.d/nsorch.fish"):
        assert "_NSORCH_COMPLETE" in installed.run(f"cat /usr/share/{path}").stdout


def test_its_environment_is_its_own_and_knows_only_its_place(installed):
    code = "import neuroshell_orch.daemon as d, sys; print(sys.prefix, d.Daemon.run.__code__.co_filename, d.__cached__)"
    said = installed.run(f"{VENV}/bin/python3 -I -c '{code}'", env={"PYTHONPATH": "/tmp"}).stdout.split()
    site = f"{VENV}/lib/python{installed.suite.python}/site-packages/neuroshell_orch"
    cached = f"{site}/__pycache__/daemon.cpython-{installed.suite.python.replace('.', '')}.pyc"
    assert said == [VENV, f"{site}/daemon.py", cached]
    installed.run(f"test -e {cached}")
    found = (
        f"find {VENV} -name direct_url.json -o -name RECORD -o -path '*/venv/bin/*' ! -name 'python*' ! -name nsorch"
    )
    assert installed.run(found).stdout == ""
    assert installed.run("dpkg --verify nsorch", user="root").stdout == ""


def test_an_upgrade_restarts_what_runs_and_starts_nothing(serving, package):
    ask(serving)
    before = main_pid(serving)
    serving.run(INSTALL.format(f"install --reinstall /deb/{package.name}"), user="root", timeout=400)
    assert main_pid(serving) not in {"0", before}
    assert serving.run("systemctl --user is-active nsorch.socket").stdout.strip() == "active"
    assert "Paris" in ask(serving)
    serving.run("systemctl --user stop nsorch.service")
    serving.run("/var/lib/dpkg/info/nsorch.postinst configure 0.0.1", user="root")
    assert main_pid(serving) == "0"


def test_a_purge_stops_it_and_leaves_only_what_is_the_users(serving):
    """The last test of this file: it takes away what the others use."""
    ask(serving)
    # What a model costs is remembered under .local/state when its worker ends: that file stays, but it may be newer.
    home = (
        "find ~ -type f -o -type l | grep -v -e /.cache/ | sort >/tmp/names; cat /tmp/names;"
        " grep -v -e /.local/state/ /tmp/names | xargs -r ls -ld --time-style=+%s"
    )
    before = serving.run(home).stdout
    assert "models.d/smollm2-135m.conf" in before
    serving.run(INSTALL.format("purge nsorch"), user="root", timeout=120)
    assert serving.run("systemctl --user show -P LoadState nsorch.service").stdout.strip() == "not-found"
    serving.wait_for(lambda: processes(serving) == [], "the end of every process of ours")
    assert files(serving) - serving.files == set()
    assert serving.run(home).stdout == before
    assert serving.run("dpkg-query -W -f '${Status}' nsorch", check=False).returncode != 0
