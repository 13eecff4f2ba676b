"""Fetches one file of a known size and digest from a package index, and can go on where it stopped.

Owns the HTTP side: the index page (JSON or HTML), ranges, retries, the comparison of what came with what was promised.
Nothing that arrives is trusted before its SHA-256 matched. Knows nothing about models or about what the file holds.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import IO, Annotated, Any, Final
from urllib.parse import unquote, urljoin, urlsplit

import msgspec

from neuroshell_orch.errors import OrchError
from neuroshell_orch.models.pip_settings import PipSettings, public

Progress = Callable[[int, int], None]

_ACCEPT: Final = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_PAGE_LIMIT: Final = 64 << 20
_CHUNK: Final = 1 << 18
_ATTEMPTS: Final = 5
_FIRST_PAUSE = 0.5
"""Seconds before the second attempt; each further one waits twice as long."""
_SCHEMES: Final = ("https", "http", "file")
_BROKEN: Final = (OSError, http.client.HTTPException)


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a package index: nothing but its digest decides whether what came is it."""

    project: str
    version: str
    filename: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
    size: Annotated[int, msgspec.Meta(ge=1)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


def fetch(wanted: Wanted, part: Path, settings: PipSettings, progress: Progress) -> None:
    """Completes ``part`` until it is the wanted file. Else ``download-failed`` or ``no-space``, and ``part`` stays."""
    opener = _opener(settings)
    url = ""
    for attempt in range(_ATTEMPTS):
        try:
            url = url or _locate(wanted, settings, opener)
            _continue(wanted, url, part, settings, opener, progress)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if attempt == _ATTEMPTS - 1 or error.code not in (408, 425, 429, 500, 502, 503, 504):
                raise _failed(wanted, f"{public(url)} answered {error.code}", settings) from None
        except _BROKEN as error:
            if isinstance(error, OSError) and error.filename == str(part):
                raise OrchError("not-allowed", f"{part}: cannot be written: {error.strerror}.", "") from error
            if attempt == _ATTEMPTS - 1:
                raise _failed(wanted, _reason(error), settings) from error
        time.sleep(_FIRST_PAUSE * 2**attempt)
    if digest(part) != wanted.sha256:
        part.unlink()
        raise OrchError(
            "download-failed",
            f"{public(url)}: what came is not {wanted.filename} as the catalogue describes it: its SHA-256 differs.",
            "It was thrown away, nothing else was touched. Try again; if it happens twice, the index has another file.",
        )


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---- where the file is ----------------------------------------------------------------------------------------------


def _locate(wanted: Wanted, settings: PipSettings, opener: urllib.request.OpenerDirector) -> str:
    """The address of the file. The first place that has it wins: the digest makes all of them equally good."""
    for link in settings.links:
        local = Path(unquote(urlsplit(link).path) if link.startswith("file:") else link) / wanted.filename
        if local.is_file():
            return local.absolute().as_uri()
    trouble: Exception | None = None
    for index in settings.indexes:
        page = f"{index.rstrip('/')}/{wanted.project}/"
        try:
            url = _find(wanted, page, settings, opener)
        except urllib.error.HTTPError as error:
            error.close()
            trouble = trouble if error.code == 404 else error
        except _BROKEN as error:
            trouble = None if page.startswith("file:") else error
        else:
            if url:
                return url
    if trouble is not None:
        raise trouble
    raise _failed(wanted, "none of them has the file", settings)


def _find(wanted: Wanted, page: str, settings: PipSettings, opener: urllib.request.OpenerDirector) -> str:
    if page.startswith("file:"):
        page += "index.html"
    with _open(opener, page, settings, {"Accept": _ACCEPT}) as response:
        body = response.read(_PAGE_LIMIT)
        base, kind = response.url, response.headers.get_content_type()
    links = _json_links(body) if kind.endswith("json") else _html_links(body)
    for name, href in links:
        if name == wanted.filename:
            return _with_login(urljoin(base, href).partition("#")[0], page)
    return ""


def _json_links(body: bytes) -> Iterator[tuple[str, str]]:
    try:
        page = json.loads(body)
    except ValueError:
        return
    files = page.get("files") if isinstance(page, dict) else None
    for file in files if isinstance(files, list) else []:
        if isinstance(file, dict) and isinstance(file.get("filename"), str) and isinstance(file.get("url"), str):
            yield file["filename"], file["url"]


def _html_links(body: bytes) -> Iterator[tuple[str, str]]:
    parser = _Anchors()
    parser.feed(body.decode("utf-8", "replace"))
    for href in parser.found:
        yield unquote(urlsplit(href).path.rpartition("/")[2]), href


class _Anchors(HTMLParser):
    """The targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes the target of a link."""
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


# ---- the transfer ---------------------------------------------------------------------------------------------------


def _continue(
    wanted: Wanted,
    url: str,
    part: Path,
    settings: PipSettings,
    opener: urllib.request.OpenerDirector,
    progress: Progress,
) -> None:
    """Appends to ``part`` what is missing. Raises IncompleteRead where the other side stopped early."""
    have = part.stat().st_size if part.exists() else 0
    if have > wanted.size:
        have = 0
    progress(have, wanted.size)
    if have == wanted.size:
        return
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    with contextlib.closing(_open(opener, url, settings, headers)) as response:
        start = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and not (getattr(response, "status", None) == 206 and start):
            have = 0
        with part.open("r+b" if have else "wb") as target:
            target.seek(have)
            while have < wanted.size:
                block = response.read(min(_CHUNK, wanted.size - have))
                if not block:
                    raise http.client.IncompleteRead(b"", wanted.size - have)
                _write(target, block, part)
                have += len(block)
                progress(have, wanted.size)
            target.flush()
            os.fsync(target.fileno())


def _write(target: IO[bytes], block: bytes, part: Path) -> None:
    try:
        target.write(block)
        target.flush()
    except OSError as error:
        raise OrchError(
            "no-space", f"{part}: cannot be written: {error.strerror}.", "Free some space; what came is kept."
        ) from error


def _opener(settings: PipSettings) -> urllib.request.OpenerDirector:
    place = settings.certificates
    context = ssl.create_default_context(
        cafile=place if place and not Path(place).is_dir() else None,
        capath=place if place and Path(place).is_dir() else None,
    )
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if settings.proxy:
        handlers.append(urllib.request.ProxyHandler({"http": settings.proxy, "https": settings.proxy}))
    return urllib.request.build_opener(*handlers)


def _open(opener: urllib.request.OpenerDirector, url: str, settings: PipSettings, headers: dict[str, str]) -> Any:  # noqa: ANN401 (what urllib gives)
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise OrchError("download-failed", f"{public(url)}: only https, http and file addresses are fetched.", "")
    request = urllib.request.Request(public(url), headers={"User-Agent": "neuroshell-orch", **headers})  # noqa: S310
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(login).decode())
    return opener.open(request, timeout=settings.timeout)


def _with_login(url: str, page: str) -> str:
    """``url`` with the index's user name and password, if it lies on the same host."""
    to, of = urlsplit(url), urlsplit(page)
    same = to.hostname == of.hostname and to.scheme == of.scheme and to.username is None
    return to._replace(netloc=of.netloc).geturl() if same and of.username is not None and to.port == of.port else url


def _reason(error: BaseException) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended before the file did"
    return str(getattr(error, "reason", "")) or str(error) or type(error).__name__


def _failed(wanted: Wanted, why: str, settings: PipSettings) -> OrchError:
    places = [public(place) for place in (*settings.links, *settings.indexes)] or ["pip's settings name no index"]
    return OrchError(
        "download-failed",
        f"{wanted.filename} could not be fetched: {why}. Asked: {', '.join(places)}.",
        "Check the network, the proxy and pip's index settings, then repeat the command: it goes on where it stopped.",
    )
