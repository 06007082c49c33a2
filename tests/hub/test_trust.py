"""Networks made to do harm: nothing of a shared folder is run, and nothing outside it is opened."""

import json
import pickle
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.hub.conftest import Trained

import plait
import plait.hub
from plait import config
from plait.errors import CheckpointError, ConfigurationError, DataError, PlaitError
from plait.hub import LocalFolder
from plait.inference.load import open_run
from plait.training.run import load_run

HARM = """
from pathlib import Path
Path(__file__).with_name("owned").write_text("by you")
from plait.tasks.depth import depth as task
from plait.models.encoders.shared import Shared as Encoder
from plait.data.rooms.dataset import Rooms as Data
"""


@pytest.fixture(scope="module")
def shared(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run, shared; only read it."""
    place = tmp_path_factory.mktemp("shared") / "org" / "tiny"
    plait.hub.push(trained.run.path, place)
    return place


@pytest.fixture
def hostile(shared: Path, tmp_path: Path) -> Path:
    """A shared network beside which lies a module that does harm when it is imported."""
    folder = tmp_path / "org" / "tiny"
    shutil.copytree(shared, folder)
    (folder / "harm.py").write_text(HARM)
    return folder


def fetched(hostile: Path) -> Path:
    """The network, as ``hf:org/tiny`` of a hub."""
    return plait.hub.fetch("hf:org/tiny", backend=LocalFolder(hostile.parents[1]))


def change(folder: Path, key: str, value: Any) -> None:
    """Changes a dotted key of the recipe, as a text editor could."""
    tree = yaml.safe_load((folder / "recipe.yaml").read_text())
    config.assign(tree, key, value)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


watched: list[str] | None = None


def note(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: it cannot be taken off, so it sleeps outside :func:`opened`."""
    if watched is not None and event == "open":
        watched.append(str(arguments[0]))


@contextmanager
def opened() -> Iterator[list[str]]:
    """The files that Python opens meanwhile."""
    global watched
    if not getattr(note, "added", False):
        sys.addaudithook(note)
        note.added = True  # type: ignore[attr-defined]
    watched = found = []
    try:
        yield found
    finally:
        watched = None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tasks.depth.kind", "harm:task"),
        ("model.encoder", "harm:Encoder"),
        ("model.encoder", {"name": "harm:Encoder"}),
        ("model.decoder", {"name": "independent", "head": "harm:Head"}),
        ("model.decoder", {"name": "independent", "head": {"depth": "harm:Head"}}),
        ("model.decoder", "harm:Decoder"),
        ("balancer", {"name": "harm:Balancer"}),
        ("balancer", "os:system"),
    ],
)
def test_a_part_that_is_not_plaits_is_refused_before_it_is_imported(
    hostile: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: object
) -> None:
    monkeypatch.syspath_prepend(str(hostile))  # it could be imported
    change(hostile, key, value)
    for source in (hostile, fetched(hostile)):
        with pytest.raises(ConfigurationError, match=r"names code that is not plait's \((harm|os):\w+\)"):
            plait.load(source)
        with pytest.raises(ConfigurationError, match="own_parts=True"):
            open_run(source)
    assert "harm" not in sys.modules
    assert not (hostile / "owned").exists()


def test_a_part_that_is_trusted_is_used_if_it_is_installed(
    hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(hostile, "tasks.depth.kind", "harm:task")
    with pytest.raises(ConfigurationError, match="cannot be imported"):  # its own folder is no place for code
        plait.load(hostile, own_parts=True)
    assert not (hostile / "owned").exists()
    monkeypatch.syspath_prepend(str(hostile))
    try:
        assert "depth" in plait.load(hostile, own_parts=True)(np.zeros((32, 32, 3), np.uint8))
    finally:
        sys.modules.pop("harm", None)


def test_data_that_are_not_plaits_are_needed_to_evaluate_alone(
    hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that networks trained on data of one's own can be given to others."""
    monkeypatch.syspath_prepend(str(hostile))
    change(hostile, "data.name", "harm:Data")
    change(hostile, "data.root", None)
    assert len(plait.load(hostile)(np.zeros((32, 32, 3), np.uint8))) == 3
    with pytest.raises(ConfigurationError, match=r"names code that is not plait's \(harm:Data\)"):
        load_run(hostile).evaluate()
    assert "harm" not in sys.modules
    assert not (hostile / "owned").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.encoder", {"name": "shared", "x": {"class_path": "harm.Encoder", "init_args": {}}}),
        ("tasks.depth.loss", {"class_path": "harm.Encoder"}),
        ("augmentation.scale", [{"class_path": "harm.Encoder"}]),
        ("data.options", {"cache": {"class_path": "harm.Encoder"}}),
        ("model.encoder", "{name: shared, x: {class_path: harm.Encoder}}"),
        ("tasks.depth.loss", '{"class\\x5fpath": "harm.Encoder"}'),
    ],
)
def test_a_class_that_a_recipe_asks_to_build_is_not_built(
    hostile: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: object
) -> None:
    monkeypatch.syspath_prepend(str(hostile))
    change(hostile, key, value)
    with pytest.raises(PlaitError):
        plait.load(hostile, own_parts=True)
    assert "harm" not in sys.modules
    assert not (hostile / "owned").exists()


class Harm:
    """What a pickle can hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("open('owned', 'w').close()",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_is_called_safetensors_is_not_opened(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    (hostile / "model.safetensors").write_bytes(pickle.dumps(Harm(), protocol))
    with pytest.raises(CheckpointError, match="is a pickle, which may run code"):
        plait.load(fetched(hostile))
    assert not (tmp_path / "owned").exists()


def test_yaml_that_builds_objects_is_refused(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (hostile / "recipe.yaml").read_text()
    tag = "!!python/object/apply:builtins.exec [\"open('owned', 'w').close()\"]"
    (hostile / "recipe.yaml").write_text(f"{text}published: {tag}\n".replace("published: null\n", ""))
    with pytest.raises(PlaitError):
        plait.load(fetched(hostile))
    assert not (tmp_path / "owned").exists()


def test_no_place_that_a_recipe_names_is_opened_to_predict(hostile: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(b"my keys")
    for key in ("data.root", "model.weights"):
        change(hostile, key, str(secret))
    change(hostile, "data.options", {"cache_dir": str(tmp_path / "secret-cache")})
    change(hostile, "model.pretrained", True)
    with opened() as files:
        plait.load(fetched(hostile))(np.zeros((32, 32, 3), np.uint8))
    assert any("recipe.yaml" in path for path in files)
    assert not [path for path in files if "secret" in path]
    change(hostile, "model.weights", None)
    change(hostile, "model.init_from", str(tmp_path / "secret-run"))
    with opened() as files:
        plait.load(fetched(hostile))
    assert not [path for path in files if "secret" in path]


def test_a_backbone_is_a_name_of_timm_and_no_place(hostile: Path) -> None:
    for name in ("hf-hub:org/name", "local-dir:/etc", "../x", "test_resnet.tag"):
        change(hostile, "model.backbone", name)
        with pytest.raises((PlaitError, RuntimeError)):
            plait.load(fetched(hostile))


def test_a_folder_of_a_network_is_never_searched_for_modules(hostile: Path) -> None:
    before = list(sys.path)
    plait.load(fetched(hostile))(np.zeros((32, 32, 3), np.uint8))
    assert sys.path == before


@pytest.mark.parametrize("name", ["recipe.yaml", "model.safetensors", "state.json", "scores.json"])
def test_a_link_to_elsewhere_is_refused(hostile: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes((hostile / name).read_bytes())
    (hostile / name).unlink()
    (hostile / name).symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=f"{name} is no file of it, but a link to elsewhere"):
        fetched(hostile)


def test_a_recipe_made_to_fill_the_memory_is_refused(hostile: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{later}: &{later} [*{earlier}, *{earlier}, *{earlier}, *{earlier}, *{earlier}, *{earlier}]\n"
        for earlier, later in zip("abcdefghi", "bcdefghij", strict=True)
    )
    for text, said in (
        (bomb, r"has references \(\*a\)"),
        ("a: " + "[" * 5000, "nested more than 32 deep"),
        ("a: [", "is not YAML"),
        ("x" * (5 * 2**20), "more than the limit"),
    ):
        (hostile / "recipe.yaml").write_text(text)
        with pytest.raises(DataError, match=said):
            fetched(hostile)


def test_a_folder_that_was_not_fetched_is_looked_at_too(hostile: Path) -> None:
    bomb = "{a: &a [x, x, x, x, x, x, x, x, x], b: &b [*a, *a, *a, *a, *a, *a], c: [*b, *b, *b, *b, *b]}"
    recipe = (hostile / "recipe.yaml").read_text()
    assert "options: {}" in recipe
    (hostile / "recipe.yaml").write_text(recipe.replace("options: {}", f"options: {bomb}", 1))
    with pytest.raises(DataError, match=r"has references \(\*a\)"):
        plait.load(hostile)


def state(folder: Path, **changes: Any) -> None:
    path = folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_damage_and_other_versions_are_told_in_one_sentence(hostile: Path) -> None:
    content = (hostile / "model.safetensors").read_bytes()
    (hostile / "model.safetensors").write_bytes(content[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError, match="is damaged"):
        plait.load(fetched(hostile))
    (hostile / "model.safetensors").write_bytes(content)
    state(hostile, sha256={})
    with pytest.raises(CheckpointError, match=r"does not say which model\.safetensors"):
        fetched(hostile)
    state(hostile, format=2)
    with pytest.raises(CheckpointError, match="has format 2"):
        fetched(hostile)
    (hostile / "state.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is damaged"):
        fetched(hostile)


def test_what_is_no_network_is_told_in_one_sentence(hostile: Path) -> None:
    for name in ("model.safetensors", "state.json", "recipe.yaml"):
        (hostile / name).unlink()
        with pytest.raises(DataError, match=f"is no network of plait: it has no .*{name}"):
            fetched(hostile)
