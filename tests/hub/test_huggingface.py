"""The hub's own client and a server on the loopback: what is pushed is fetched, and errors are sentences."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.hub.fake_hub import TOKEN, FakeHub

import plait
import plait.hub
from plait.errors import ConfigurationError, DataError
from plait.hub import HuggingFace, bundle
from plait.training.run import Run

NAME = "hf:org/tiny"

# The hub's client uploads large files by an argument that its HTTP library no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def shared(run: Run, folder: Path) -> dict[str, bytes]:
    plait.hub.push(run.path, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_pushed_is_fetched_and_predicts_the_same(
    run: Run, hub: FakeHub, backend: HuggingFace
) -> None:
    made = plait.hub.push(run.path, NAME, licence="mit", message="A first one", backend=backend)
    assert made.place == f"{hub.endpoint}/org/tiny"
    assert made.source == NAME
    repository = hub.repositories["org/tiny"]
    assert repository.messages[-1] == "A first one"
    assert len(repository.commits) == 2  # the empty repository, and one commit of everything
    assert set(repository.files) == {".gitattributes", *bundle.FILES} - {bundle.PICTURE}
    assert repository.private is False
    folder = plait.hub.fetch(NAME, backend=backend)
    image = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    ours, theirs = plait.load(run.path, device="cpu")(image), plait.load(folder, device="cpu")(image)
    for task in ours:
        assert np.array_equal(ours[task].values, theirs[task].values)


def test_only_known_files_are_fetched(run: Run, hub: FakeHub, backend: HuggingFace, tmp_path: Path) -> None:
    files = shared(run, tmp_path / "shared")
    hub.add("org/tiny", {
        **files, "__init__.py": b"raise SystemExit", "depth.py": b"", "model.bin": b"",
        "sub/recipe.yaml": b"",
    })  # fmt: skip
    folder = plait.hub.fetch(NAME, backend=backend)
    assert sorted(hub.fetched()) == sorted(bundle.READ)
    assert sorted(path.name for path in folder.rglob("*")) == sorted(bundle.READ)


def test_a_second_push_replaces_the_first_and_removes_what_it_has_not(
    run: Run, hub: FakeHub, backend: HuggingFace
) -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    plait.hub.push(run.path, NAME, picture=image, backend=backend)
    repository = hub.repositories["org/tiny"]
    repository.commit({**repository.files, "NOTES.txt": b"by hand"})
    assert bundle.PICTURE in repository.files
    plait.hub.push(run.path, NAME, backend=backend)
    assert bundle.PICTURE not in repository.files
    assert repository.files["NOTES.txt"] == b"by hand"


def test_another_repository_is_not_written_over(run: Run, hub: FakeHub, backend: HuggingFace) -> None:
    files = {"README.md": b"my life's work", "pytorch_model.bin": b"0"}
    hub.add("org/tiny", files)
    with pytest.raises(ConfigurationError, match="holds something else than a network of plait"):
        plait.hub.push(run.path, NAME, backend=backend)
    assert hub.repositories["org/tiny"].files == files


def test_a_private_network_is_private_and_never_put_where_all_can_read(
    run: Run, hub: FakeHub, backend: HuggingFace
) -> None:
    plait.hub.push(run.path, NAME, private=True, backend=backend)
    assert hub.repositories["org/tiny"].private
    with pytest.raises(DataError, match="there is no hf:org/tiny, or it is private"):
        plait.hub.fetch(NAME, backend=replace(backend, token="hf_" + "x" * 34))
    hub.repositories["org/tiny"].private = False
    with pytest.raises(ConfigurationError, match="everybody can read it"):
        plait.hub.push(run.path, NAME, private=True, backend=backend)


def test_a_revision_is_fetched_by_its_name(
    run: Run, hub: FakeHub, backend: HuggingFace, tmp_path: Path
) -> None:
    files = shared(run, tmp_path / "shared")
    repository = hub.add("org/tiny", files)
    first = repository.head
    repository.commit({**files, "config.json": b'{"second": true}'})
    assert b"second" in (plait.hub.fetch(NAME, backend=backend) / "config.json").read_bytes()
    assert b"second" not in (plait.hub.fetch(f"{NAME}@{first}", backend=backend) / "config.json").read_bytes()
    with pytest.raises(DataError, match="hf:org/tiny@v9 has no such revision"):
        plait.hub.fetch(f"{NAME}@v9", backend=backend)


def test_without_a_network_the_cache_answers(
    run: Run, hub: FakeHub, backend: HuggingFace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    hub.add("org/tiny", shared(run, tmp_path / "shared"))
    fetched = plait.hub.fetch(NAME, backend=backend)
    hub.broken = True
    assert plait.hub.fetch(NAME, backend=backend) == fetched
    hub.broken = False
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert plait.hub.fetch(NAME, backend=backend) == fetched
    with pytest.raises(DataError, match="hf:org/other was not fetched: the hub cannot be reached"):
        plait.hub.fetch("hf:org/other", backend=backend)
    assert len(hub.asked) == asked


def test_nobody_there_is_told_in_one_sentence(run: Run, tmp_path: Path, hub: FakeHub) -> None:
    nobody = HuggingFace("http://127.0.0.1:1", TOKEN, tmp_path / "cache")
    with pytest.raises(DataError, match="was not fetched: the hub cannot be reached"):
        plait.hub.fetch(NAME, backend=nobody)
    with pytest.raises(DataError, match="was not pushed: the hub cannot be reached"):
        plait.hub.push(run.path, NAME, backend=nobody)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({}, "there is no hf:org/tiny, or it is private and you may not read it"),
        ({"gated": True}, "asks for consent first"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_sentence(
    hub: FakeHub, backend: HuggingFace, about: dict[str, bool], said: str
) -> None:
    if about:
        hub.add("org/tiny", {}, **about)
    with pytest.raises(DataError, match=said):
        plait.hub.fetch(NAME, backend=backend)


def test_what_cannot_be_written_is_told_in_one_sentence(
    run: Run, hub: FakeHub, backend: HuggingFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.read_only = True
    with pytest.raises(DataError, match=r"the hub does not allow it \(you may not write here\)"):
        plait.hub.push(run.path, NAME, backend=backend)
    hub.read_only, hub.card_errors = False, ['"license" must be one of [apache-2.0, mit]']
    with pytest.raises(DataError, match=r"hf:org/tiny was not pushed: .*license"):
        plait.hub.push(run.path, NAME, licence="beerware", backend=backend)
    hub.card_errors, hub.full = [], True
    with pytest.raises(DataError, match=r"was not pushed: .*model.safetensors.*507") as refused:
        plait.hub.push(run.path, NAME, backend=backend)
    assert "http" not in str(refused.value)  # the address of an upload can be a signed one
    hub.full = False
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(ConfigurationError, match="you must be logged in"):
        plait.hub.push(run.path, NAME, backend=replace(backend, token=None))
    hub.broken = True
    with pytest.raises(DataError, match=r"the hub has trouble of its own \(.*on fire"):
        plait.hub.push(run.path, NAME, backend=backend)


@pytest.mark.parametrize("missing", bundle.NEEDED)
def test_what_is_no_network_of_plait_is_not_fetched(
    run: Run, hub: FakeHub, backend: HuggingFace, tmp_path: Path, missing: str
) -> None:
    files = shared(run, tmp_path / "shared")
    del files[missing]
    hub.add("org/tiny", files)
    with pytest.raises(DataError, match=rf"is no network of plait: it has no {re.escape(missing)}"):
        plait.hub.fetch(NAME, backend=backend)
    assert hub.fetched() == []


def test_a_file_too_large_is_not_fetched(
    run: Run, hub: FakeHub, backend: HuggingFace, tmp_path: Path
) -> None:
    hub.add("org/tiny", shared(run, tmp_path / "shared"))
    hub.claimed_sizes = {"recipe.yaml": 10**12}
    with pytest.raises(DataError, match=r"recipe.yaml has 1,000,000,000,000 bytes, more than the limit"):
        plait.hub.fetch(NAME, backend=backend)
    assert hub.fetched() == []


def test_a_token_is_in_no_sentence(hub: FakeHub, backend: HuggingFace) -> None:
    assert TOKEN not in repr(backend)
