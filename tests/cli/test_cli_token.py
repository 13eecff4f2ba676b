"""``nsorch token``: while no service runs; the port's side is tested beside the API."""

from __future__ import annotations


def test_made_listed_revoked(models):
    made = models("token", "create", "editor", "--models", "tiny,gone", "--expires", "30d")
    secret = made.out.strip()
    assert (made.code, "\n" in secret, len(secret) > 40) == (0, False, True)
    assert "gone" in made.err, "it says that this model is not there"
    assert models("token", "create", "all").code == 0
    first, second = models("token", "list", "--json").json
    assert (first["name"], first["models"], first["expired"], first["used"]) == (
        "editor",
        ["gone", "tiny"],
        False,
        None,
    )
    assert 29 * 86400 < first["expires"] - first["created"] <= 30 * 86400
    assert (second["models"], second["expires"]) == (None, None)
    table = models("token", "list").out
    assert secret not in table
    assert "30 d" in table
    assert "all" in table
    assert "revoked" in models("token", "revoke", "editor").out
    assert [token["name"] for token in models("token", "list", "--json").json] == ["all"]


def test_what_cannot_be_is_a_sentence_and_a_code(models):
    models("token", "create", "one")
    for arguments, code, words in [
        (("create", "one"), 4, "already"),
        (("create", "A"), 4, "cannot be a name"),
        (("create", "x", "--models", "tiny,,other"), 4, "cannot be a name"),
        (("create", "x", "--expires", "soon"), 4, "--expires"),
        (("create", "x", "--expires", "0"), 4, "--expires"),
        (("revoke", "nobody"), 3, "no token"),
    ]:
        done = models("token", *arguments)
        assert (done.code, words in done.err, done.out) == (code, True, ""), done
    assert models("token", "list").code == 0


def test_a_damaged_file_names_itself(models):
    models("token", "create", "one")
    path = models.root / "state" / "nsorch" / "tokens.json"
    path.write_text("{")
    done = models("token", "list")
    assert (done.code, str(path) in done.err) == (4, True)
