"""The registry: the first model is the default, and nobody's own files are ever deleted."""

import pytest

from neuroshell_orch.config import write
from neuroshell_orch.config.load import load
from neuroshell_orch.errors import OrchError
from neuroshell_orch.models import registry

DIGEST = "AB" * 32


@pytest.fixture
def world(xdg, monkeypatch):
    monkeypatch.setenv("NSORCH_CONFIG_DIRS", f"{xdg}/etc:{xdg}/config/nsorch")
    return xdg


def made(name, size=10_000):
    """Files as a conversion leaves them, in our own data folder."""
    folder = registry.folder(name)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"x" * size)
    return folder


def test_adding_says_everything_there_is_to_say(world):
    model = registry.add(
        "smol",
        made("smol"),
        "genai",
        DIGEST,
        mode="persistent",
        threads=2,
        context_length=512,
        description="Small,\n but  real",
        source="https://example.org",
    )
    assert model == registry.get("smol") == load().models["smol"]
    assert registry.models() == [model]
    assert (model.path, model.digest) == (str(world / "data/nsorch/models/smol"), f"sha256:{DIGEST.lower()}")
    assert (model.mode, model.threads, model.context_length) == ("persistent", 2, 512)
    assert (model.description, model.origin) == ("Small, but real", "https://example.org")


def test_a_relative_path_is_made_absolute(world, monkeypatch):
    monkeypatch.chdir(world)
    (world / "m.onnx").touch()
    assert registry.add("m", "m.onnx", "onnx").path == str(world / "m.onnx")


def test_the_first_model_becomes_the_default_and_the_next_does_not(world):
    registry.add("one", made("one"), "genai")
    registry.add("two", made("two"), "genai")
    assert load().settings.default_model == "one"


def test_a_default_that_somebody_else_decides_stays(world):
    (world / "etc/nsorch.conf.d").mkdir(parents=True)
    (world / "etc/nsorch.conf.d/90-site.conf").write_text("[Orchestrator]\nDefaultModel=site\n")
    registry.add("one", made("one"), "genai")
    assert load().settings.default_model == "site"


@pytest.mark.parametrize(
    ("arguments", "problem", "message"),
    [
        (("m", "/nowhere/m.onnx", "onnx"), "file-missing", "/nowhere/m.onnx does not exist"),
        (("m", "/", "torch"), "bad-request", "expected one of genai, onnx"),
        (("m", "/", "onnx", "123"), "bad-request", "Digest="),
        (("My Model", "/", "onnx"), "bad-request", "'My Model' cannot name a model"),
    ],
)
def test_refusals(world, arguments, problem, message):
    with pytest.raises(OrchError) as caught:
        registry.add(*arguments)
    assert caught.value.problem == problem
    assert message in str(caught.value)
    assert registry.models() == []
    assert load().settings.default_model == ""


def test_an_unknown_mode_or_model_is_told_with_what_there_is(world):
    with pytest.raises(OrchError, match=r"there is no mode 'zzz'\. Modes: adaptive, dummy-swap"):
        registry.add("m", "/", "onnx", mode="zzz")
    registry.add("smol", "/", "onnx")
    with pytest.raises(OrchError, match=r"there is no model 'smoll'\. Did you mean smol"):
        registry.get("smoll")


def test_removing_keeps_the_files_unless_it_is_asked_to_delete_them(world):
    folder = made("smol")
    registry.add("smol", folder, "genai")
    result = registry.remove("smol")
    assert (result.kept, result.reason, result.freed) == (str(folder), "deleting them was not asked for", 0)
    assert folder.exists()
    registry.add("smol", folder, "genai")
    result = registry.remove("smol", delete_files=True)
    assert not folder.exists()
    assert result.freed >= 10_000
    assert str(folder) in result.deleted
    assert (result.kept, result.default_model) == ("", "")
    assert load().warnings == []


def test_a_users_own_files_are_never_deleted(world):
    own = world / "home" / "models"
    own.mkdir()
    (own / "m.onnx").touch()
    registry.add("m", own / "m.onnx", "onnx")
    made("m")  # files of ours beside it, as after an interrupted conversion
    result = registry.remove("m", delete_files=True)
    assert (own / "m.onnx").exists()
    assert not registry.folder("m").exists()
    assert (result.kept, result.reason) == (str(own / "m.onnx"), "they were not made by nsorch")


def test_a_link_in_our_folder_is_deleted_not_followed(world):
    target = world / "home" / "precious"
    target.mkdir()
    (target / "f").touch()
    folder = made("m")
    (folder / "inside").symlink_to(target)
    registry.add("m", folder, "genai")
    registry.remove("m", delete_files=True)
    assert not folder.exists()
    registry.folder("n").symlink_to(target)
    registry.add("n", registry.folder("n"), "genai")
    registry.remove("n", delete_files=True)
    assert not registry.folder("n").is_symlink()
    assert (target / "f").exists()


def test_files_that_another_model_uses_stay(world):
    folder = made("one")
    registry.add("one", folder, "genai")
    registry.add("two", folder / "model.onnx", "onnx")
    result = registry.remove("one", delete_files=True)
    assert folder.exists()
    assert (result.kept, result.reason) == (str(folder), "the model two uses them")


def test_the_default_moves_to_the_one_that_is_left_and_to_none_of_several(world):
    for name in ("one", "two", "three"):
        registry.add(name, made(name), "genai")
    assert registry.remove("one").default_model == ""
    assert load().settings.default_model == ""
    write.set_default_model("two")
    assert registry.remove("two").default_model == "three"
    assert load().settings.default_model == "three"
    assert load().warnings == []


def test_a_broken_model_can_be_removed(world):
    registry.add("m", made("m"), "genai")
    (world / "config/nsorch/models.d/m.conf").write_text("!!!\n")
    assert registry.models() == []
    registry.remove("m", delete_files=True)
    assert not registry.folder("m").exists()
    assert load().models == {}
