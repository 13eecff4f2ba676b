"""The listings: every file in reading order, every value with its place."""

from neuroshell_orch.config.parse import parse_text
from neuroshell_orch.config.paths import vendor_dir
from neuroshell_orch.config.schema import SECTIONS
from neuroshell_orch.config.show import cat, show


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_cat_shows_every_file_in_reading_order_and_says_what_does_not_count(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    low = write(a / "nsorch.conf.d/10-x.conf", "[Orchestrator]\nMaxQueue=1\n")
    high = write(b / "nsorch.conf.d/10-x.conf", "[Orchestrator]\nMaxQueue=2\n")
    early = write(b / "nsorch.conf.d/05-y.conf", "[Orchestrator]\nMaxQueue=3\n")
    mask = b / "modes.d/dynamic.conf"
    mask.parent.mkdir()
    mask.symlink_to("/dev/null")
    broken = write(b / "models.d/m.conf", "")
    broken.write_bytes(b"\xff\n")
    loop = b / "models.d/n.conf"
    loop.symlink_to("n.conf")
    dirs = [vendor_dir(), a, b]
    parts = cat(dirs)
    names = [path for path, _ in parts]
    assert names[:4] == [vendor_dir() / "nsorch.conf", early, low, high]
    texts = dict(parts)
    assert texts[low] == f"# masked by {high}\n"
    assert texts[high] == high.read_text()
    assert texts[vendor_dir() / "modes.d/dynamic.conf"] == f"# masked by {mask}\n"
    assert texts[mask].startswith("# a mask")
    assert texts[broken] == "\ufffd\n"
    assert texts[loop] == "# it is a link that leads in a circle\n"


def test_show_names_the_place_of_every_value(tmp_path):
    file = write(tmp_path / "nsorch.conf", "[Orchestrator]\n\nLoadTimeoutSec=90\nMaxQueue=x\n")
    model = write(tmp_path / "models.d/m.conf", "[Model]\nPath=/\nRuntime=onnx\nMemoryMax=2048M\nMode=nope\n")
    entries = {(entry.section, entry.name, entry.key): entry for entry in show([vendor_dir(), tmp_path])}
    assert entries["Orchestrator", "", "LoadTimeoutSec"][3:] == ("1min 30s", f"{file}:3")
    assert entries["Orchestrator", "", "MaxQueue"][3:] == ("64", "default")
    assert entries["Orchestrator", "", "DefaultModel"][3:] == ("", "default")
    assert entries["Orchestrator", "", "WorkerMemoryMax"][3:] == ("infinity", "default")
    assert entries["Model", "m", "MemoryMax"][3:] == ("2G", f"{model}:4")
    assert entries["Model", "m", "Mode"][3:] == ("", "default")  # it names nothing, so it is not in force
    assert entries["Mode", "hibernate", "ForgetSec"][3:] == ("1h", f"{vendor_dir()}/modes.d/hibernate.conf:5")
    assert [key for _, name, key, _, _ in show([vendor_dir()]) if not name] == list(SECTIONS["Orchestrator"])


def test_what_show_says_can_be_written_back(tmp_path):
    write(tmp_path / "models.d/m.conf", "[Model]\nPath=/\nRuntime=onnx\nMemoryMax=12.5%\nLoadTimeoutSec=1.5h\n")
    entries = [entry for entry in show([vendor_dir(), tmp_path]) if entry.name == "m" and entry.value]
    text = "[Model]\n" + "".join(f"{entry.key}={entry.value}\n" for entry in entries)
    again = {
        item.key: SECTIONS["Model"][item.key].spec.kind.parse(item.value) for item in parse_text(text, "f").assignments
    }
    assert again["LoadTimeoutSec"] == 5400
    assert again["MemoryMax"].hundredths == 1250
