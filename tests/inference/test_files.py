"""Folders of predictions: what is written, that it scores as the network does, and that work goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import plait
from plait.cli import main
from plait.data.sample import DataSet
from plait.errors import ConfigurationError, DataError
from plait.inference import Predictor, Sizing, predict_files
from plait.inference.stored import Stored
from plait.metrics.folders import read_scoring, score_folders
from plait.training.run import Run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*words: Path | str) -> tuple[int, str, str]:
        """Exit status, output and what was said of errors; without the bar."""
        status = main(["predict", str(run_folder), *map(str, words)])
        out, err = capsys.readouterr()
        said = "\n".join(line for line in err.splitlines() if line.startswith("plait: "))
        return status, out.strip(), said

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".png", ".npy")}


# --- what is written ------------------------------------------------------------------------------------


def test_a_folder_is_predicted_with_all_that_is_needed_to_read_it(
    command: Command, photos: Path, tmp_path: Path, predictor: Predictor
) -> None:
    out = tmp_path / "out"
    (photos / "notes.txt").touch()
    status, said, wrong = command(photos, "--out", out)
    assert (status, wrong) == (0, "")
    assert said.splitlines() == [
        f"5 pictures, fitted into 32x40, in {out}",
        "left alone: 1 file of another kind (1 .txt)",
    ]
    names = ["0", "1", "2", "4", "more/3"]
    expected = {"predictions.json", "files.jsonl", "scoring.yaml"}
    for task, suffix in {
        "semseg": "png",
        "depth": "png",
        "normals": "npy",
        "edges": "png",
        "saliency": "png",
    }.items():
        expected |= {f"{task}/{name}.{suffix}" for name in names}
        expected |= {f"pictures/{task}/{name}.png" for name in names}
    expected |= {f"pictures/all-tasks/{name}.png" for name in names}
    assert set(contents(out)) == expected
    description = json.loads((out / "predictions.json").read_text())
    assert list(description["tasks"]) == ["semseg", "depth", "normals", "edges", "saliency"]
    assert description["tasks"]["depth"]["unit"] == "m"
    assert description["tasks"]["semseg"]["classes"][3]["name"] == "class 3"
    assert description["sizing"] | {"told": ""} == {
        "told": "", "size": [32, 40], "tile": None, "overlap": pytest.approx(1 / 3), "scales": [1.0]
    }  # fmt: skip
    lines = [json.loads(line) for line in (out / "files.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == names
    assert [line["file"] for line in lines] == [str(photos / f"{name}.png") for name in names]
    assert {tuple(line["size"]) for line in lines} == {(32, 48)}


def test_files_hold_what_python_gives(photos: Path, tmp_path: Path, predictor: Predictor) -> None:
    predict_files(predictor, [photos], tmp_path / "out", batch=2)
    files = sorted(photos.rglob("*.png"))
    batches = [predictor.batch(files[start : start + 2]) for start in range(0, 5, 2)]
    for file, made in zip(files, [one for batch in batches for one in batch], strict=True):
        name = file.relative_to(photos).with_suffix("")
        for task, found in made.items():
            stored = Stored(found.task)
            read = stored.read(tmp_path / "out" / task / f"{name}{stored.suffix}")
            assert (read.float() - found.decoded.float()).abs().max() <= 0.501 * (stored.step or 0)
            drawn = Image.open(tmp_path / "out" / "pictures" / task / f"{name}.png")
            assert np.array_equal(np.asarray(drawn), found.picture)


@pytest.mark.parametrize("form", ["png", "npy"])
def test_predictions_score_as_the_network_does(
    run: Run, rooms: DataSet, photos: Path, tmp_path: Path, predictor: Predictor, form: Any
) -> None:
    predict_files(predictor, [photos], tmp_path / "out", format=form)
    for place in range(len(rooms)):
        name = f"more/{place}" if place == 3 else str(place)
        for task in run.tasks:
            label = rooms[place].targets[task.label].as_subclass(Tensor)
            path = tmp_path / "labels" / task.name / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, label[0].numpy() if len(label) == 1 else label.movedim(0, -1).numpy())
    scoring = read_scoring(tmp_path / "out" / "scoring.yaml")
    found = score_folders(tmp_path / "out", tmp_path / "labels", **scoring)
    expected = run.evaluate("test")
    for task in run.tasks:
        for measure in task.measures:
            value = expected[task.name][measure.name]
            assert found[task.name][measure.name] == pytest.approx(value, rel=2e-3, abs=2e-3), measure


def test_options_are_heard(command: Command, photos: Path, tmp_path: Path) -> None:
    words = [
        "--tasks",
        "depth",
        "semseg",
        "--format",
        "npy",
        "--no-pictures",
        "--tile",
        "24x32",
        "--overlap",
        "0.5",
    ]
    status, said, wrong = command(
        photos / "0.png", "--out", tmp_path / "out", *words, "--flip", "--batch", "1"
    )
    assert (status, wrong) == (0, "")
    assert (
        said == f"1 picture, at their own size, in tiles of 24x32 that overlap by 50 %, in {tmp_path / 'out'}"
    )
    found = set(contents(tmp_path / "out"))
    assert found == {"semseg/0.npy", "depth/0.npy", "predictions.json", "files.jsonl", "scoring.yaml"}


def test_depth_that_16_bits_cannot_hold_is_told(photos: Path, tmp_path: Path, predictor: Predictor) -> None:
    from dataclasses import replace

    (depth,) = (task for task in predictor.tasks if task.name == "depth")
    fine = replace(predictor, tasks=(replace(depth, step=1e-6),))
    first = predict_files(fine, [photos], tmp_path / "out").sentences()
    again = predict_files(fine, [photos], tmp_path / "out").sentences()
    assert first[-1].startswith(
        "7,680 pixels of depth lie beyond what its 16-bit pictures hold, 1e-06 to 0.065535 m"
    )
    assert again[-1] == first[-1]


# --- going on -------------------------------------------------------------------------------------------


def test_the_same_command_again_changes_nothing(command: Command, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command(photos, "--out", out)
    before, when = contents(out), times(out)
    _, said, _ = command(photos, "--out", out)
    assert said == f"5 pictures (5 were there already), fitted into 32x40, in {out}"
    assert (contents(out), times(out)) == (before, when)


def test_only_what_is_missing_changed_or_new_is_predicted(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command(photos, "--out", out, "--batch", "1")
    before = contents(out)
    (out / "pictures" / "depth" / "1.png").unlink()  # whatever is missing of a picture
    Image.open(photos / "2.png").rotate(180).save(photos / "2.png")
    Image.open(photos / "0.png").save(photos / "5.png")
    status, said, _ = command(photos, "--out", out, "--batch", "1")
    assert status == 0
    assert said.splitlines() == [
        f"6 pictures (3 were there already), fitted into 32x40, in {out}",
        "1 was predicted again, because its file had changed",
    ]
    after = contents(out)
    different = {name for name in before if after[name] != before[name]} - {"files.jsonl"}
    assert different
    assert all(re.search(r"/2\.(png|npy)$", name) for name in different)
    assert after["depth/5.png"] == after["depth/0.png"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--flip"], "another choice of --flip"),
        (["--format", "npy"], "another --format"),
        (["--size", "own"], "another size or other tiles"),
        (["--no-pictures"], "another choice of pictures"),
    ],
)
def test_other_settings_need_another_folder(
    command: Command, photos: Path, tmp_path: Path, words: list[str], says: str
) -> None:
    out = tmp_path / "out"
    command(photos / "0.png", "--out", out)
    before = contents(out)
    status, said, wrong = command(photos / "0.png", "--out", out, *words)
    assert (status, said) == (2, "")
    assert f"holds predictions of {says}" in wrong
    assert "name another folder, or begin again with --overwrite" in wrong
    assert contents(out) == before
    status, _, _ = command(photos / "1.png", "--out", out, *words, "--overwrite")
    assert status == 0
    assert all("/0." not in name for name in contents(out))


def test_other_weights_and_tasks_need_another_folder(
    photos: Path, tmp_path: Path, predictor: Predictor
) -> None:
    from dataclasses import replace

    predict_files(predictor, [photos], tmp_path / "out")
    for other, says in (
        (replace(predictor, digest="0" * 64), "other weights"),
        (replace(predictor, tasks=predictor.tasks[:2]), "other tasks"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            predict_files(other, [photos], tmp_path / "out")


def test_a_line_that_was_cut_off_is_predicted_again(
    photos: Path, tmp_path: Path, predictor: Predictor
) -> None:
    out = tmp_path / "out"
    predict_files(predictor, [photos], out, batch=1)
    before = contents(out)
    (out / "files.jsonl").write_bytes(before["files.jsonl"][:-30])
    assert predict_files(predictor, [photos], out, batch=1).already == 4
    assert contents(out) == before


def test_overwriting_removes_what_predict_wrote_and_nothing_else(
    photos: Path, tmp_path: Path, predictor: Predictor
) -> None:
    out = tmp_path / "out"
    predict_files(predictor, [photos], out)
    (out / "depth" / "mine.png").write_bytes(b"mine")
    (tmp_path / "outside.png").write_bytes(b"outside")
    with (out / "files.jsonl").open("a") as stream:
        stream.write(json.dumps({"id": "../../outside"}) + "\n")
    with pytest.raises(DataError, match="line 6 is not one that predict writes"):
        predict_files(predictor, [photos], out)
    predict_files(predictor, [photos / "0.png"], out, format="npy", overwrite=True)
    pictures = {path.name for path in out.rglob("*.png") if "pictures" not in path.parts}
    assert pictures == {"mine.png"}
    assert (tmp_path / "outside.png").read_bytes() == b"outside"


def test_a_folder_that_is_somebody_else_s_is_left_alone(
    photos: Path, tmp_path: Path, predictor: Predictor
) -> None:
    (tmp_path / "out" / "depth").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="out/depth is there already, and not by predict"):
        predict_files(predictor, [photos], tmp_path / "out")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "predictions.json").write_text("{")
    with pytest.raises(DataError, match=r"predictions\.json cannot be read"):
        predict_files(predictor, [photos], tmp_path / "damaged")


PREDICT = """
import os, signal, sys, torch
torch.set_num_threads(1)
import plait
from plait.inference import predict_files
from plait.training import checkpoint

writes, original = 0, checkpoint.write_durably

def write_durably(path, content):
    global writes
    writes += 1
    if writes == int(sys.argv[4]):
        path.write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    original(path, content)

checkpoint.write_durably = write_durably
predict_files(plait.load(sys.argv[1]), [sys.argv[2]], sys.argv[3], batch=2)
"""


def start(run_folder: Path, photos: Path, out: Path, kill_at_write: int = 0) -> subprocess.Popen[bytes]:
    """A process that predicts a folder; in the middle of its n-th write it is killed."""
    words = [sys.executable, "-c", PREDICT, str(run_folder), str(photos), str(out), str(kill_at_write)]
    return subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_killed_again_and_again_predictions_end_with_the_same_bytes(
    run_folder: Path, photos: Path, tmp_path: Path
) -> None:
    for place in range(5, 17):
        random = np.random.default_rng(place)
        Image.fromarray(random.integers(0, 256, (40 + place, 60, 3), dtype=np.uint8)).save(
            photos / f"{place}.png"
        )
    assert start(run_folder, photos, tmp_path / "whole").wait() == 0
    expected, killed = contents(tmp_path / "whole"), tmp_path / "killed"
    for write in (1, 2, 5, 17, 30, 41):
        assert start(run_folder, photos, killed, kill_at_write=write).wait() == -signal.SIGKILL
    for lines in (3, 9):
        process = start(run_folder, photos, killed)
        ledger = killed / "files.jsonl"
        while process.poll() is None and (
            not ledger.exists() or len(ledger.read_bytes().splitlines()) < lines
        ):
            time.sleep(0.002)
        process.kill()
        process.wait()
    assert start(run_folder, photos, killed).wait() == 0
    assert contents(killed) == expected


# --- what is wrong --------------------------------------------------------------------------------------


def test_unreadable_files_are_named_and_all_else_is_done(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (photos / "bad.png").write_bytes((photos / "0.png").read_bytes()[:60])
    (photos / "empty.jpg").touch()
    status, said, wrong = command(photos, "--out", out, "--batch", "2")
    assert status == 2
    assert said == f"5 pictures, fitted into 32x40, in {out}"
    assert wrong.startswith("plait: everything else is done, but 2 files could not be read: ")
    assert "bad.png: not a PNG" in wrong
    assert "empty.jpg: not a PNG" in wrong
    assert len(list((out / "depth").rglob("*.png"))) == 5
    (photos / "bad.png").unlink()
    status, said, wrong = command(photos, "--out", out, "--batch", "2")
    assert "(5 were there already)" not in said, "a group of which one is missing is predicted together"
    assert wrong.startswith(f"plait: everything else is done, but {photos / 'empty.jpg'}: not a PNG")


def test_an_unreadable_picture_alone_is_one_sentence(command: Command, tmp_path: Path) -> None:
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    status, said, wrong = command(tmp_path / "photo.heic", "--out", tmp_path / "out")
    assert (status, said) == (2, "")
    assert wrong.startswith(f"plait: {tmp_path / 'photo.heic'}: not a PNG, JPEG, WEBP or TIFF image")


def test_many_unreadable_files_make_no_endless_sentence(
    photos: Path, tmp_path: Path, predictor: Predictor
) -> None:
    for number in range(30):
        (photos / f"bad{number:02d}.png").touch()
    summary = predict_files(predictor, [photos], tmp_path / "out")
    assert len(summary.failures) == 30
    assert summary.failure.count(": not a PNG") == 10
    assert summary.failure.endswith("and 20 more")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{photos}"], "the following arguments are required: --out"),
        (["--out", "{out}"], "the following arguments are required: IMAGE|FOLDER|VIDEO"),
        (["{photos}", "--out", "{photos}/0.png"], "expected a folder"),
        (["{photos}", "--out", "{photos}"], "predictions go elsewhere"),
        (["nowhere", "--out", "{out}"], "nowhere: nothing is there"),
        (["{photos}", "--out", "{out}", "--size", "big"], "HEIGHTxWIDTH"),
        (["{photos}", "--out", "{out}", "--overlap", "0.5"], "--overlap is for tiles"),
        (["{photos}", "--out", "{out}", "--tile", "8x8", "--overlap", "1"], "overlap must be from 0 up to 1"),
        (["{photos}", "--out", "{out}", "--batch", "0"], "batch must be 1 or more"),
        (["{photos}", "--out", "{out}", "--every", "0"], "every must be 1 or more"),
        (["{photos}", "--out", "{out}", "--format", "exr"], "unknown FORMAT 'exr'"),
        (["{photos}", "--out", "{out}", "--device", "abacus"], "--device abacus cannot be used"),
        (["{photos}", "--out", "{out}", "--tasks", "flow"], "was not trained on 'flow'; it predicts semseg"),
        (["{photos}", "--out", "{out}", "--flipp"], "did you mean '--flip'?"),
    ],
)
def test_wrong_input_is_answered_in_one_sentence(
    command: Command, photos: Path, tmp_path: Path, words: list[str], says: str
) -> None:
    places = {"photos": str(photos), "out": str(tmp_path / "out")}
    status, said, wrong = command(*(word.format(**places) for word in words))
    assert (status, said) == (2, "")
    assert says in wrong
    assert len(wrong.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_finished_says_so(
    run_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run" / "scores.json").unlink()
    assert (
        main(["predict", str(tmp_path / "run"), str(photos / "0.png"), "--out", str(tmp_path / "out")]) == 0
    )
    assert capsys.readouterr().out.startswith("this run is not finished: its network of step 2 of 2")


def test_a_full_disk_is_one_sentence(
    photos: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from plait.errors import DiskFullError
    from plait.inference import files

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_atomically", full)
    with pytest.raises(
        DiskFullError, match=r"predictions in .* could not be written; .* the same command again"
    ):
        predict_files(predictor, [photos], tmp_path / "out")


def test_pictures_of_several_sizes_are_predicted_at_their_own(tmp_path: Path, run_folder: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    sizes = [(40, 60), (33, 64), (40, 60), (64, 33), (40, 60)]
    for number, size in enumerate(sizes):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    own = plait.load(run_folder, sizing=Sizing())
    predict_files(own, [tmp_path / "in"], tmp_path / "out", batch=4)
    for number, size in enumerate(sizes):
        single = own(tmp_path / "in" / f"{number}.png")
        normals = np.load(tmp_path / "out" / "normals" / f"{number}.npy")
        assert normals.shape == (*size, 3)
        torch.testing.assert_close(
            torch.from_numpy(normals), torch.from_numpy(single["normals"].values), rtol=1e-3, atol=1e-4
        )


def test_two_processes_do_not_write_to_one_folder(command: Command, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    out = tmp_path / "out"
    holds = "import sys, pathlib; from plait.inference.ledger import held\n"
    holds += "with held(pathlib.Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", holds, str(out)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        status, _, wrong = command(photos, "--out", out)
        other.communicate()
    assert status == 2
    assert wrong.startswith("plait: another process is writing predictions to")
    assert not list(out.iterdir())
    assert command(photos, "--out", out)[0] == 0


def test_a_call_that_finished_nothing_binds_nobody(
    command: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predictions", exhausted)
        status, _, wrong = command(photos, "--out", out)
    assert status == 2
    assert "has too little memory" in wrong
    assert command(photos, "--out", out, "--tile", "16x16")[0] == 0  # as that sentence proposes
    assert json.loads((out / "predictions.json").read_text())["sizing"]["tile"] == [16, 16]
    status, _, wrong = command(photos, "--out", out)
    assert status == 2
    assert "another size or other tiles" in wrong


def test_a_folder_that_cannot_be_written_is_one_sentence(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "deep")
    status, _, wrong = command(photos, "--out", tmp_path / "link")
    assert status == 2
    assert "cannot be made" in wrong
    out = tmp_path / "out"
    out.mkdir()
    assert command(photos, "--out", out, "--tasks", "depth")[0] == 0
    (out / "pictures" / "depth" / "more" / "3.png").unlink()
    (out / "pictures" / "depth" / "more").rmdir()
    (out / "pictures" / "depth" / "more").touch()
    status, _, wrong = command(photos, "--out", out, "--tasks", "depth")
    assert status == 2
    assert "cannot be written" in wrong
