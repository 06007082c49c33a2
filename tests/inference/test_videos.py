"""Frames of videos as predictions, and their pictures as videos."""

import builtins
import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plait.errors import DataError, MissingExtraError
from plait.inference import Predictor, predict_files, videos
from plait.inference.stored import Stored

cv2 = pytest.importorskip("cv2")


def frames(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray[Any, Any]]:
    """A bright square that moves to the right over a slope of colours."""
    made = []
    for number in range(count):
        picture = np.zeros((*size, 3), np.uint8)
        picture[..., 0] = np.linspace(0, 200, size[1])[None]
        picture[..., 2] = np.linspace(0, 150, size[0])[:, None]
        picture[10:30, 2 * number : 2 * number + 16] = 255
        made.append(picture)
    return made


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    videos.write(tmp_path / "clip.mp4", frames(11), 12.5)
    return tmp_path / "clip.mp4"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(path: Path) -> tuple[list[np.ndarray[Any, Any]], float]:
    with videos.opened(path) as opened:
        taken = opened.take(1000, 1, lambda _: True)
        return [frame for _, frame in taken if frame is not None], opened.rate


def test_what_is_written_reads_back(clip: Path) -> None:
    found, rate = read(clip)
    assert rate == 12.5
    assert len(found) == 11
    for frame, expected in zip(found, frames(11), strict=True):
        assert frame.shape == expected.shape
        assert np.abs(frame.astype(int) - expected).mean() < 12, (
            "colours in their order, squares where they are"
        )


def test_frames_are_predicted_and_drawn(clip: Path, tmp_path: Path, predictor: Predictor) -> None:
    told = []
    out = tmp_path / "out"
    summary = predict_files(
        predictor, [clip], out, every=3, batch=2, progress=lambda done, total: told.append((done, total))
    )
    assert summary.sentences() == [f"1 video (4 frames), fitted into 32x40, in {out}"]
    assert told[-1] == (4, 4)
    names = ["000000", "000003", "000006", "000009"]
    assert sorted(path.stem for path in (out / "depth" / "clip").iterdir()) == names
    pictures, _ = read(clip)
    made = [*predictor.batch([pictures[0], pictures[3]]), *predictor.batch([pictures[6], pictures[9]])]
    for name, one in zip(names, made, strict=True):
        for task, found in one.items():
            stored = Stored(found.task)
            values = stored.read(out / task / "clip" / f"{name}{stored.suffix}")
            assert np.allclose(values.float(), found.decoded.float(), atol=1e-3)
    drawn, rate = read(out / "pictures" / "normals" / "clip.mp4")
    assert rate == pytest.approx(12.5 / 3, abs=1e-3)
    assert [frame.shape for frame in drawn] == [(48, 64, 3)] * 4
    expected = made[1]["normals"].picture
    assert np.abs(drawn[1].astype(int) - expected).mean() < 12
    line = json.loads((out / "files.jsonl").read_text().splitlines()[0])
    assert (line["id"], line["frames"]) == ("clip", 11)


def test_a_video_goes_on_by_frame(clip: Path, tmp_path: Path, predictor: Predictor) -> None:
    out = tmp_path / "out"
    predict_files(predictor, [clip], out, batch=2)
    before = contents(out)
    assert predict_files(predictor, [clip], out, batch=2).already == 11
    lines = (out / "files.jsonl").read_text().splitlines()
    (out / "files.jsonl").write_text("\n".join(lines[1:6]) + "\n")  # killed after frame 4
    (out / "pictures" / "depth" / "clip.mp4").unlink()
    summary = predict_files(predictor, [clip], out, batch=2)
    assert (summary.already, summary.frames) == (4, 11), "frame 4 again, with 5: they are one group"
    assert contents(out) == before


def test_a_video_that_changed_is_predicted_again(clip: Path, tmp_path: Path, predictor: Predictor) -> None:
    out = tmp_path / "out"
    predict_files(predictor, [clip], out)
    videos.write(clip, frames(5)[::-1], 10)
    summary = predict_files(predictor, [clip], out)
    assert (summary.changed, summary.already, summary.frames) == (1, 0, 5)
    assert len(list((out / "depth" / "clip").iterdir())) == 5, "no frame of the old one is left"


def test_pictures_and_videos_go_together(clip: Path, tmp_path: Path, predictor: Predictor) -> None:
    Image.fromarray(frames(1)[0]).save(tmp_path / "photo.jpg")
    summary = predict_files(
        predictor, [tmp_path / "photo.jpg", clip], tmp_path / "out", pictures=False, every=10
    )
    assert summary.sentences()[0].startswith("1 picture and 1 video (2 frames), fitted")
    assert not (tmp_path / "out" / "pictures").exists()


def test_odd_sides_lose_a_row(tmp_path: Path) -> None:
    videos.write(tmp_path / "odd.mp4", frames(3, (45, 61)), 25)
    assert [frame.shape for frame in read(tmp_path / "odd.mp4")[0]] == [(44, 60, 3)] * 3


WRONG = {
    "nothing": lambda whole: b"",
    "text": lambda whole: b"#EXTM3U\nfile:///etc/passwd\n",
    "half": lambda whole: whole[: len(whole) // 2],
    "start": lambda whole: whole[:64],
    "noise": lambda whole: whole[:32] + bytes(range(256)) * 40,
}


@pytest.mark.parametrize("how", WRONG)
def test_a_damaged_or_hostile_video_is_one_sentence(
    how: str, clip: Path, tmp_path: Path, predictor: Predictor, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mp4").write_bytes(WRONG[how](clip.read_bytes()))
    Image.fromarray(frames(1)[0]).save(tmp_path / "photo.jpg")
    summary = predict_files(predictor, [tmp_path / "bad.mp4", tmp_path / "photo.jpg"], tmp_path / "out")
    assert summary.pictures == 1
    assert len(summary.failures) == 1
    assert summary.failures[0].startswith(f"{tmp_path / 'bad.mp4'}: ")
    assert capfd.readouterr().err == ""


def test_a_video_that_ends_early_is_named_and_its_frames_are_there(
    tmp_path: Path, predictor: Predictor
) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "cut.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for frame in frames(20):
        writer.write(frame)
    writer.release()
    whole = (tmp_path / "cut.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        summary = predict_files(predictor, [tmp_path / "cut.avi"], tmp_path / "out")
        assert "damaged: it ends after" in summary.failure
        assert "of the 20 frames" in summary.failure
    made = len(list((tmp_path / "out" / "depth" / "cut").iterdir()))
    assert 5 <= made < 20
    assert len(read(tmp_path / "out" / "pictures" / "depth" / "cut.mp4")[0]) == made


def test_damage_anywhere_never_ends_in_more_than_a_sentence(clip: Path, tmp_path: Path) -> None:
    whole, random = clip.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 20):
            damaged[place] = random.integers(256)
        (tmp_path / "bad.mp4").write_bytes(bytes(damaged))
        with contextlib.suppress(DataError), videos.opened(tmp_path / "bad.mp4") as opened:
            opened.take(100, 1, lambda _: True)


def test_without_opencv_videos_are_refused_before_work_begins(
    clip: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "cv2":
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    Image.fromarray(frames(1)[0]).save(tmp_path / "photo.jpg")
    with pytest.raises(MissingExtraError, match=r"pip install 'plait\[video\]'"):
        predict_files(predictor, [tmp_path / "photo.jpg", clip], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_of_an_earlier_call_are_not_taken_for_frames(
    clip: Path, tmp_path: Path, predictor: Predictor
) -> None:
    photos = tmp_path / "photos"
    (photos / "clip").mkdir(parents=True)
    Image.fromarray(frames(1)[0]).save(photos / "clip" / "one.png")
    for first, second in (([photos], [clip]), ([clip], [photos])):
        out = tmp_path / f"out of {first[0].name}"
        predict_files(predictor, first, out)
        before = contents(out)
        with pytest.raises(DataError, match="which is predicted already"):
            predict_files(predictor, second, out)
        assert contents(out) == before
