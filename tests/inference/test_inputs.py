"""Which files are predicted, and under which names."""

from pathlib import Path

import pytest

from plait.errors import ConfigurationError, DataError
from plait.inference.inputs import Inputs, find

OUT = Path("out")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def files(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def ids(found: Inputs) -> list[str]:
    return [one.id for one in found.pictures]


def test_folders_are_walked_in_the_order_of_names() -> None:
    files("in/b.jpg", "in/a.PNG", "in/city/2.tiff", "in/city/1.webp", "in/b.v2.jpeg")
    assert ids(find(["in"], out=OUT)) == ["a", "b", "b.v2", "city/1", "city/2"]


def test_hidden_files_other_files_and_predictions_are_left_alone() -> None:
    files(
        "in/a.jpg",
        "in/.b.jpg",
        "in/.git/c.jpg",
        "in/out/d.jpg",
        "in/notes.txt",
        "in/x.heic",
        "in/y.heic",
        "in/z",
    )
    found = find(["in"], out=Path("in/out"))
    assert ids(found) == ["a"]
    assert found.left_alone == "4 files of another kind (1 without ending, 2 .heic, 1 .txt)"


def test_links_out_of_a_folder_are_not_followed() -> None:
    files("in/a.jpg", "secret/b.jpg")
    Path("in/b.jpg").symlink_to(Path("secret/b.jpg").absolute())
    Path("in/more").symlink_to(Path("secret").absolute())
    Path("in/again.jpg").symlink_to("a.jpg")
    Path("in/round").symlink_to(".")
    found = find(["in"], out=OUT)
    assert ids(found) == ["a", "again"]
    assert found.left_alone == "3 links to folders or out of the folder"


def test_a_named_file_is_taken_whatever_it_is_called() -> None:
    files("in/photo", "in/clip.MOV", "in/b.jpg")
    found = find(["in/photo", "in/clip.MOV", "in/b.jpg"], out=OUT)
    assert ids(found) == ["photo", "b"]
    assert [video.id for video in found.videos] == ["clip"]
    assert not found.left_alone


@pytest.mark.parametrize(
    ("made", "named", "says"),
    [
        (["in/a.jpg", "in/a.png"], ["in"], r"in/a\.jpg and in/a\.png would both be written as 'a'"),
        (["x/a.jpg", "y/a.jpg"], ["x", "y"], r"x/a\.jpg and y/a\.jpg would both be written as 'a'"),
        (["a.jpg", "a.mp4"], ["a.jpg", "a.mp4"], r"a\.jpg and a\.mp4 would both"),
        (["in/a/0.jpg", "a.mp4"], ["in", "a.mp4"], r"frames of a\.mp4 and in/a/0\.jpg"),
        (["a.jpg"], ["a.jpg", "a.jpg"], "would both"),
        (["in/a.txt"], ["in"], "in: expected pictures .* found none"),
        ([], ["nowhere.jpg"], r"nowhere\.jpg: nothing is there"),
        (["out/a.jpg"], ["out"], "predictions go elsewhere"),
    ],
)
def test_what_cannot_be_told_apart_or_found_is_refused(made: list[str], named: list[str], says: str) -> None:
    files(*made)
    with pytest.raises(DataError, match=says):
        find(named, out=OUT)


def test_an_empty_folder_is_refused() -> None:
    Path("empty").mkdir()
    with pytest.raises(DataError, match="found none; name another folder"):
        find(["empty"], out=OUT)


@pytest.mark.parametrize("name", ["...png", "x" * 250 + ".png"])
def test_names_that_no_prediction_can_have_are_refused_before_work_begins(name: str) -> None:
    Path("in").mkdir()
    Path("in", name).touch()
    with pytest.raises(ConfigurationError, match="rename it"):
        find([Path("in", name)], out=Path("out"))
