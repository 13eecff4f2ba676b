"""What a person does and sees, in whole Debians: installed, switched on, asked, left alone, broken, asked again.

Debian 12 gets the package, Debian 13 pip and ``nsorch setup``; after that both are used in the same way.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import deb
import pytest
import roots
import wheels
from guest import Guest

from tests import support_models
from tests.support_tiny import tiny_genai_folder

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1500)]

PARIS = "What is the capital of France?"
DROP_INS = "/home/alice/.config/nsorch"
MIB = 1 << 20


def by_package(folder):
    """Debian 12, the package; the model is converted from the file that a pull left in the cache."""
    if deb.host() != "bookworm":
        pytest.skip(f"the package for Debian 12 is built on Debian 12, and this is {deb.host() or 'something else'}")
    reason = deb.why_not()
    if reason:
        pytest.skip(reason)
    package = deb.build()
    machine = Guest(roots.SUITES["bookworm"], binds={package.parent: "/deb", **models(folder)})
    machine.boot()
    install = f"apt-get -q -y -o Dpkg::Options::=--force-unsafe-io install /deb/{package.name} </dev/null"
    machine.run(install, user="root", timeout=400)
    return machine


def by_pip(folder):
    """Debian 13, a wheel into a virtual environment of alice's own, and the units by ``nsorch setup``."""
    reason = wheels.why_not()
    if reason:
        pytest.skip(reason)
    suite = roots.SUITES["trixie"]
    layer = wheels.venv_layer(suite)
    wheel = wheels.own_wheel(folder / "wheel")
    machine = Guest(suite, layers=[layer], binds={wheel.parent: "/own", **models(folder)})
    machine.boot()
    machine.run(f"venv/bin/pip install --quiet --no-index --no-deps /own/{wheel.name}", timeout=120)
    machine.run("mkdir -p ~/.local/bin && ln -s ~/venv/bin/nsorch ~/.local/bin/nsorch")
    said = machine.run("nsorch setup").stdout
    assert "nsorch.socket" in said
    return machine


def models(folder):
    """A quick model of a few kilobytes, and the default model's download."""
    support_models.smollm2_gguf()
    tiny = tiny_genai_folder(folder / "tiny")
    for path in (folder, tiny, *tiny.iterdir()):
        path.chmod(0o755)  # alice reads them
    return {tiny: "/models/tiny", support_models.CACHE: "/models/cache"}


@pytest.fixture(scope="module", params=[by_package, by_pip], ids=["bookworm-deb", "trixie-pip"])
def machine(request):
    reason = roots.why_not()
    if reason:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="nsorch-judged-") as folder:
        (Path(folder) / "wheel").mkdir()
        machine = request.param(Path(folder))
        try:
            machine.run("mkdir -p ~/.cache/nsorch && cp /models/cache/*.gguf ~/.cache/nsorch/")
            machine.run("nsorch model pull smollm2-135m", timeout=200)
            machine.run("nsorch model add tiny /models/tiny && nsorch model default smollm2-135m")
            machine.run("systemctl --user enable --now nsorch.socket")
            yield machine
        finally:
            machine.poweroff()


@pytest.fixture
def fresh(machine):
    """Nothing of ours runs, and the configuration is what it was after the installation."""
    yield machine
    machine.run(f"rm -rf {DROP_INS}/nsorch.conf {DROP_INS}/modes.d ~/.config/systemd/user/nsorch.service.d")
    machine.run("nsorch mode set timeout; systemctl --user daemon-reload; systemctl --user stop nsorch.service")


def ask(machine, prompt=PARIS, options="", **rest):
    return machine.run(f"nsorch ask {options} '{prompt}'", timeout=120, **rest)


def ps(machine, model="smollm2-135m"):
    found = json.loads(machine.run("nsorch ps --json").stdout)
    return next(row for row in found if row["name"] == model)


def ours(machine):
    """Every process of the service: the daemon's and the workers'."""
    lines = machine.run("ps -eo args 2>/dev/null || true", user="root").stdout.splitlines()
    command = "for one in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$one 2>/dev/null; echo; done; true"
    lines = lines or machine.run(command, user="root", check=False).stdout.splitlines()
    return [line for line in lines if "nsorch serve" in line or "neuroshell_orch" in line]


def settings(machine, **keys):
    text = "".join(f"{key}={value}\n" for key, value in keys.items())
    machine.write(f"{DROP_INS}/nsorch.conf", f"[Orchestrator]\n{text}")


def idle(machine, mode, seconds):
    machine.write(f"{DROP_INS}/modes.d/{mode}.conf.d/90-test.conf", f"[Mode]\nIdleSec={seconds}\n")


def daemon_pid(machine):
    return int(machine.run("systemctl --user show -P MainPID nsorch.service").stdout)


def test_nothing_runs_until_somebody_asks_and_then_it_answers(fresh):
    assert ours(fresh) == []
    done = ask(fresh)
    assert "Paris" in done.stdout
    assert done.stderr == ""
    row = ps(fresh)
    assert row["warmth"] == "HOT"
    assert row["unit"].startswith("nsorch-worker-smollm2"), "a service of its own"
    assert row["memory"]["pss"] > 100 * MIB
    told = fresh.run(f"systemctl --user show -P BindsTo -P PrivateNetwork {row['unit']}").stdout
    assert "nsorch.service" in told
    assert "yes" in told
    status = fresh.run("systemctl --user status nsorch.service --no-pager").stdout
    assert "smollm2-135m HOT" in status


def test_standard_input_and_errors_through_the_real_service(fresh):
    assert fresh.run("echo 'the cat sat' | nsorch ask -m tiny --max-tokens 4 'say this:'", timeout=60).returncode == 0
    unknown = ask(fresh, options="-m nope", check=False)
    assert unknown.returncode == 3
    assert "nope" in unknown.stderr
    assert "smollm2-135m" in unknown.stderr
    fresh.write("/home/alice/fake.onnx", "this is no model")
    added = fresh.run("nsorch model add fake ~/fake.onnx", check=False)
    assert added.returncode == 4
    assert "Traceback" not in added.stderr
    bad = fresh.run("nsorch mode set turbo", check=False)
    assert bad.returncode == 3
    assert "dummy-swap" in bad.stderr


def test_dummy_swap_parks_and_the_memory_is_gone(fresh):
    idle(fresh, "dummy-swap", "2s")
    fresh.run("nsorch mode set dummy-swap")
    assert "Paris" in ask(fresh).stdout
    hot = ps(fresh)
    fresh.wait_for(lambda: ps(fresh)["warmth"] == "PARKED", "the standby worker")
    parked = ps(fresh)
    assert parked["pid"] != hot["pid"]
    assert parked["memory"]["pss"] < 0.5 * hot["memory"]["pss"]
    assert parked["freed"]["before"] > 100 * MIB
    assert parked["freed"]["after"] == 0
    assert "PARKED" in fresh.run("nsorch ps").stdout
    assert "Paris" in ask(fresh).stdout, "the standby worker loads it"


def test_hibernation_inside_the_sandbox(fresh):
    idle(fresh, "hibernate", "2s")
    fresh.run("nsorch mode set hibernate")
    first = ask(fresh).stdout
    hot = ps(fresh)
    fresh.wait_for(lambda: ps(fresh)["warmth"] == "HIBERNATED", "hibernation")
    asleep = ps(fresh)
    assert asleep["pid"] == hot["pid"]
    assert asleep["memory"]["rss"] < 0.6 * hot["memory"]["rss"]
    assert ask(fresh).stdout == first


def test_the_journal_tells_the_story_in_fields(fresh):
    fresh.run("nsorch mode set dynamic")
    before = fresh.journal("-n", "0", "--show-cursor").split("cursor: ")[1].strip()
    ask(fresh)
    fresh.wait_for(lambda: ps(fresh)["warmth"] == "COLD", "dynamic's unload")
    lines = fresh.journal("-u", "nsorch.service", "-o", "json", f"--after-cursor={before}").splitlines()
    entries = [json.loads(line) for line in lines]
    story = [e for e in entries if e.get("NSORCH_MODEL") == "smollm2-135m" and "NSORCH_REASON" in e]
    hot = next(e for e in story if e["NSORCH_WARMTH"] == "HOT")
    assert hot["NSORCH_MODE"] == "dynamic"
    assert hot["NSORCH_REASON"].startswith("loaded in")
    assert len(hot["MESSAGE_ID"]) == 32
    assert any("freed" in e["MESSAGE"] and "MiB" in e["MESSAGE"] for e in entries)
    assert "capital of France" not in "\n".join(lines)
    assert "Paris" not in "\n".join(lines)


def test_a_daemon_that_hangs_is_restarted_by_the_watchdog_and_the_next_ask_works(fresh):
    fresh.write("/home/alice/.config/systemd/user/nsorch.service.d/watchdog.conf", "[Service]\nWatchdogSec=3\n")
    fresh.run("systemctl --user daemon-reload; systemctl --user stop nsorch.service")
    ask(fresh)
    pid = daemon_pid(fresh)
    fresh.run(f"kill -STOP {pid}")
    assert "Paris" in ask(fresh).stdout, "it waited for the new daemon"
    assert daemon_pid(fresh) not in {0, pid}
    assert "atchdog" in fresh.journal("-u", "nsorch.service", "-n", "80")


def test_after_idle_there_is_no_process_of_ours_and_the_socket_still_answers(fresh):
    settings(fresh, Mode="dynamic", IdleExitSec="1s", DefaultModel="smollm2-135m")
    fresh.run("nsorch mode set dynamic; systemctl --user reload-or-restart nsorch.service")
    ask(fresh)
    fresh.wait_for(lambda: ours(fresh) == [], "the idle exit")
    assert fresh.run("systemctl --user is-active nsorch.socket").stdout.strip() == "active"
    assert fresh.run("systemctl --user is-failed nsorch.service", check=False).stdout.strip() == "inactive"
    asleep = fresh.run("nsorch status").stdout
    assert "asleep" in asleep
    assert ours(fresh) == [], "looking wakes nobody"
    began = time.monotonic()
    assert "Paris" in ask(fresh).stdout
    assert time.monotonic() - began < 20, "neither the daemon nor its worker waits for a time limit of the other"


def test_sixty_clients_against_a_fifty_millisecond_idle_exit(fresh):
    settings(fresh, IdleExitSec="50ms", DefaultModel="tiny")
    fresh.run("nsorch mode set dynamic; systemctl --user restart nsorch.service")
    script = """
    rm -rf ~/answers; mkdir ~/answers
    for n in $(seq 60); do
        (nsorch ask -m tiny --max-tokens 2 "number $n" >~/answers/$n.out 2>~/answers/$n.err; echo $? >~/answers/$n.rc) &
        [ $((n % 6)) = 0 ] && sleep 1.2
    done
    wait
    cat ~/answers/*.rc | sort | uniq -c; cat ~/answers/*.err | sort | uniq -c
    """
    said = fresh.run(script, timeout=280).stdout.split()
    assert said == ["60", "0"]
    starts = fresh.journal("-u", "nsorch.service", "-o", "cat").count("is ready")
    assert starts > 3, "it did exit in between"


def test_a_daemon_that_is_killed_takes_its_workers_along(fresh):
    ask(fresh)
    assert len(ours(fresh)) >= 2
    fresh.run("systemctl --user stop nsorch.socket; systemctl --user kill -s KILL nsorch.service")
    fresh.wait_for(lambda: not any("workers.boot" in line for line in ours(fresh)), "the worker's end", 5)
    fresh.run("systemctl --user start nsorch.socket")
    assert "Paris" in ask(fresh).stdout


def test_a_worker_that_is_killed_mid_answer_is_one_error_and_the_next_ask_works(fresh):
    ask(fresh)
    pid = ps(fresh)["pid"]
    script = f"(sleep 0.4; kill -9 {pid}) & nsorch ask --max-tokens 4000 'Tell me a very long story.' >/dev/null"
    died = fresh.run(script, check=False, timeout=60)
    assert died.returncode == 6, died
    assert "SIGKILL" in died.stderr
    assert "Paris" in ask(fresh).stdout


def test_a_broken_configuration_is_refused_and_said(fresh):
    ask(fresh)
    settings(fresh, IdleExitSec="soon")
    fresh.run("systemctl --user reload nsorch.service", check=False)
    fresh.wait_for(lambda: "IdleExitSec" in fresh.run("nsorch status").stdout, "the refusal in the status")
    checked = fresh.run("nsorch config check", check=False)
    assert checked.returncode == 4
    assert "nsorch.conf:2" in checked.stdout + checked.stderr
    assert "Paris" in ask(fresh).stdout


def test_the_port_is_opt_in_and_asks_for_its_token(fresh):
    fresh.run("systemctl --user enable --now nsorch-http.socket")
    code = (
        "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 11430, timeout=30); "
        "h = {'Authorization': 'Bearer ' + sys.argv[1]} if len(sys.argv) > 1 else {}; "
        "c.request('GET', '/v1/models', headers=h); r = c.getresponse(); print(r.status, r.read().decode())"
    )
    assert fresh.run(f'python3 -c "{code}"').stdout.startswith("401")
    token = fresh.run("nsorch token create judge 2>/dev/null").stdout.strip()
    allowed = fresh.run(f'python3 -c "{code}" {token}').stdout
    assert allowed.startswith("200")
    assert "smollm2-135m" in allowed
    fresh.run("nsorch token revoke judge")
    assert fresh.run(f'python3 -c "{code}" {token}').stdout.startswith("401")
    fresh.run("systemctl --user disable --now nsorch-http.socket")


def test_everything_can_be_taken_away_again(machine):
    """The last one: the units of ``nsorch setup`` leave no trace (the package's purge is tested beside the package)."""
    if deb.host() == machine.suite.name:
        pytest.skip("the package brings its own units; test_deb purges it")
    machine.run("nsorch setup --remove")
    machine.wait_for(lambda: ours(machine) == [], "the end of every process")
    assert machine.run("systemctl --user show -P LoadState nsorch.socket").stdout.strip() == "not-found"
    assert machine.run("find ~/.config/systemd ~/.local/share/systemd -name '*nsorch*'", check=False).stdout == ""
    assert machine.run("ls ~/.local/share/nsorch/models").stdout.split() == ["smollm2-135m"], "what is alice's stays"
