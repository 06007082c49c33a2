"""A run shared in a folder: what is in it, what is not, and that it is read like the run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.hub.conftest import Trained

import plait
import plait.hub
from plait import cli, config
from plait.errors import CheckpointError, ConfigurationError, DataError
from plait.hub import LocalFolder, bundle
from plait.hub.address import Address
from plait.hub.private import names_a_place, shareable
from plait.training.run import Run, load_run

IMAGE = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def shared(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run, shared; only read it."""
    place = tmp_path_factory.mktemp("shared") / "tiny-network"
    plait.hub.push(trained.run.path, place, licence="cc-by-4.0", picture=IMAGE)
    return place


def copy(shared: Path, folder: Path) -> Path:
    return Path(shutil.copytree(shared, folder / "copy"))


def test_it_is_run_and_checkpoint_at_once(run: Run, shared: Path) -> None:
    found = load_run(shared)
    assert found.bundled
    assert found.finished
    assert found.scores == run.scores
    ours, theirs = plait.load(run.path, device="cpu")(IMAGE), plait.load(shared, device="cpu")(IMAGE)
    assert list(ours) == list(theirs)
    for task in ours:
        assert np.array_equal(ours[task].values, theirs[task].values)


def test_it_holds_these_files_and_no_others(shared: Path) -> None:
    assert {path.name for path in shared.iterdir()} == set(bundle.FILES)
    assert json.loads((shared / "state.json").read_text()).keys() == {"format", "step", "tasks", "sha256"}


def test_no_file_tells_of_the_machine(trained: Trained, shared: Path) -> None:
    """Neither a folder, nor a host, nor a command line."""
    folders = {str(trained.run.path), str(trained.rooms), str(Path.home()), *trained.rooms.parts[1:]}
    environment = trained.run.environment
    private = {*folders, environment["platform"], environment["processor"], "of-alice", "hostname"}
    for path in shared.iterdir():
        content = path.read_bytes()
        for text in filter(None, private - {"tmp", "rooms"}):
            assert text.encode() not in content, (path.name, text)
        if path.suffix != ".safetensors" and path.suffix != ".png":
            assert not re.search(r"(?<![\w.:/<])/(?:home|tmp|root|Users|data|work)\b", content.decode())


def test_the_recipe_says_what_was_left_out(trained: Trained, shared: Path) -> None:
    found = load_run(shared)
    assert found.recipe.data.root == "not-shared"
    assert config.replace(found.recipe, {"data.root": str(trained.rooms)}) == trained.run.recipe
    assert "left out of the recipe: `data.root`" in (shared / "README.md").read_text()


def test_it_is_evaluated_where_its_data_are(trained: Trained, shared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"without the place of its data.*data.root"):
        load_run(shared).evaluate()
    mine = copy(shared, tmp_path)
    recipe = config.replace(load_run(mine).recipe, {"data.root": str(trained.rooms)})
    (mine / "recipe.yaml").write_text(config.dump(recipe))
    assert load_run(mine).evaluate() == trained.run.scores


def test_a_shared_network_is_shared_again(shared: Path, tmp_path: Path) -> None:
    plait.hub.push(shared, tmp_path / "again")
    for name in ("model.safetensors", "state.json", "recipe.yaml", "scores.json"):
        assert (tmp_path / "again" / name).read_bytes() == (shared / name).read_bytes()


def test_a_place_that_is_taken_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all I have")
    with pytest.raises(ConfigurationError, match="is not empty"):
        plait.hub.push(run.path, tmp_path)
    with pytest.raises(ConfigurationError, match="is not empty"):
        plait.hub.push(run.path, tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    plait.hub.push(run.path, tmp_path / "empty")
    assert plait.load(tmp_path / "empty").tasks


def test_a_push_that_fails_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, "place", stopped)
    with pytest.raises(KeyboardInterrupt):
        plait.hub.push(run.path, tmp_path / "network")
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_is_shared_only_as_such(trained: Trained, tmp_path: Path) -> None:
    run = shutil.copytree(trained.run.path, tmp_path / "run")
    (run / "scores.json").unlink()
    with pytest.raises(ConfigurationError, match=r"is not finished, so it has no scores.*--unfinished"):
        plait.hub.push(run, tmp_path / "network")
    plait.hub.push(run, tmp_path / "network", unfinished=True)
    assert not (tmp_path / "network" / "scores.json").exists()
    card = (tmp_path / "network" / "README.md").read_text()
    assert "It was shared at step 2 of 2, before its training had finished, and was not scored." in card
    assert "model-index" not in card
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        plait.hub.push(run, tmp_path / "other", unfinished=True)


@pytest.mark.parametrize(
    ("destination", "said"),
    [
        ("hf:", "expected hf:ORGANISATION/NAME"),
        ("hf:name", "expected hf:ORGANISATION/NAME"),
        ("hf:a/b/c", "expected hf:ORGANISATION/NAME"),
        ("hf:../b", "expected hf:ORGANISATION/NAME"),
        ("hf:org/name@v1", "pushed without a revision"),
    ],
)
def test_a_wrong_destination_is_told(run: Run, destination: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        plait.hub.push(run.path, destination)


def test_a_wrong_licence_or_run_is_told(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a licence is named as on the hub"):
        plait.hub.push(run.path, tmp_path / "network", licence="CC BY\nlicense: mit")
    with pytest.raises(ConfigurationError, match="is not a run's folder"):
        plait.hub.push(tmp_path / "none", tmp_path / "network")
    with pytest.raises(ConfigurationError, match="private is for a hub"):
        plait.hub.push(run.path, tmp_path / "network", private=True)


@pytest.mark.parametrize(
    "text",
    [
        "hf:a/..",
        "hf:a/b@../../etc",
        "hf:a/b@",
        "hf:a/b@/x",
        "hf:a//b",
        "hf:a/-b",
        "hf:a/b@x y",
        "a/b",
        "hf:a/b@x/",
    ],
)
def test_an_address_leads_nowhere_else(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected hf:ORGANISATION/NAME"):
        Address.parse(text)


def test_a_folder_of_networks_is_a_hub_of_its_own(run: Run, tmp_path: Path) -> None:
    networks = LocalFolder(tmp_path)
    made = plait.hub.push(run.path, "hf:org/tiny", backend=networks)
    assert made.place == str(tmp_path / "org" / "tiny")
    assert plait.load(plait.hub.fetch("hf:org/tiny", backend=networks)).tasks
    with pytest.raises(DataError, match="there is no org/other"):
        plait.hub.fetch("hf:org/other", backend=networks)
    with pytest.raises(ConfigurationError, match="a folder has no revisions"):
        plait.hub.fetch("hf:org/tiny@v1", backend=networks)
    with pytest.raises(ConfigurationError, match="expected the name of a folder"):
        networks.download("../elsewhere")


@pytest.mark.parametrize(
    ("key", "value", "remains"),
    [
        ("data.root", "/home/alice/rooms", "not-shared"),
        ("data.root", "rooms", "not-shared"),
        ("data.root", "s3://alices-bucket/rooms", "not-shared"),
        ("data.options", {"cache_dir": "/home/alice/cache"}, {"cache_dir": "not-shared"}),
        ("data.options", {"cache_dir": "~/cache"}, {"cache_dir": "not-shared"}),
        ("data.options", {"url": "https://alice:secret@data.org/a"}, {"url": "not-shared"}),
        ("data.options", {"images": "images/*.png"}, {"images": "images/*.png"}),
        ("data.options", {"sets": [{"root": "C:\\alice\\x"}]}, {"sets": [{"root": "not-shared"}]}),
        ("data.options", {"roots": {"/home/alice": 1}}, {"roots": {"not-shared": 1}}),
        ("model.weights", "/home/alice/hrnet.pth", "hrnet.pth"),
        ("model.weights", "C:\\Users\\alice\\hrnet.pth", "hrnet.pth"),
        ("model.init_from", "/home/alice/runs/first", "first"),
        ("model.init_from", {"depth": "../alice/one", "semseg": "two"}, {"depth": "one", "semseg": "two"}),
        ("published", {"source": "notes of /home/alice"}, "not-shared"),
    ],
)
def test_of_a_place_at_most_a_name_remains(run: Run, key: str, value: object, remains: object) -> None:
    recipe, left_out = shareable(config.replace(run.recipe, {"data.root": None, key: value}))
    found = config.plain(recipe)
    for part in key.split("."):
        found = found[part]
    if key == "published":
        found = found["source"]
    assert found == remains
    assert (value == remains) == (left_out == ())
    assert "alice" not in config.dump(recipe)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("/data", True), ("see /home/alice/x", True), ("file:///x", True), ("\\\\server\\share", True),
        ("D:/x", True), ("~alice/x", True), ("a/b", False), ("https://arxiv.org/abs/1", False),
        ("mIoU / RMSE", False), ("~5", False), ("1/2", False), ("^(encoder|decoder).x", False),
    ],
)  # fmt: skip
def test_places_are_told_from_other_texts(text: str, is_one: bool) -> None:
    assert names_a_place(text) is is_one


def test_what_still_names_the_home_folder_is_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever slips through the rules above."""
    monkeypatch.setattr(Path, "home", lambda: Path("/first"))
    run = shutil.copytree(trained.run.path, tmp_path / "run")
    recipe = config.replace(trained.run.recipe, {"published.source": "x/first/alice"})
    (run / "recipe.yaml").write_text(config.dump(recipe))
    with pytest.raises(ConfigurationError, match="would tell everybody your home folder"):
        plait.hub.push(run, tmp_path / "network")


def test_the_command_shares_and_says_what_to_know(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import argparse

    from plait.commands import push
    from plait.commands.base import Commands, Parser

    parser = Parser(prog="plait")
    push.add(Commands(parser))
    parsed: argparse.Namespace = parser.parse_args(["push", str(run.path), str(tmp_path / "network")])
    parsed.command(parsed)
    said = capsys.readouterr().out
    assert "--licence names it" in said
    assert "left out of the recipe, as it is private: data.root" in said
    assert "test_resnet, random weights" in said
    assert f"plait.load('{tmp_path / 'network'}') opens it" in said
    assert (tmp_path / "network" / "model.safetensors").is_file()


def test_the_shared_folder_is_evaluated_by_the_command(
    trained: Trained, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = copy(shared, tmp_path)
    text = (mine / "recipe.yaml").read_text()
    (mine / "recipe.yaml").write_text(text.replace("root: not-shared", f"root: {trained.rooms}"))
    assert cli.main(["evaluate", str(mine)]) == 0
    assert "mIoU" in capsys.readouterr().out


def test_a_shared_network_is_evaluated_on_data_of_this_machine(
    trained: Trained, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(shared)]) == 2
    assert "--data-root" in capsys.readouterr().err
    assert cli.main(["evaluate", str(shared), "--data-root", str(trained.rooms)]) == 0
    assert "RMSE" in capsys.readouterr().out
