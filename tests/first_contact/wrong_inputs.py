"""Wrong input of many kinds, and what plait answers: the list behind a test and a page of the docs.

``python -m tests.first_contact.wrong_inputs`` writes the page again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from plait.cli import main
from plait.config import load_recipe
from plait.testing import write_tiny_rooms

PAGE = Path(__file__).parents[2] / "docs" / "results" / "wrong_inputs.md"

TINY = """\
tasks: {depth: {kind: depth}, semantic: {kind: semantic, classes: 20}}
model: {backbone: test_resnet, pretrained: false, decoder: {name: independent, head: linear}}
augmentation: {size: [32, 32]}
evaluation: {size: [32, 40]}
training: {steps: 1, batch_size: 2, threads: 1, precision: fp32, channels_last: false}
data: {root: rooms}
"""


@dataclass(frozen=True)
class Wrong:
    """One thing that a person gets wrong.

    Attributes:
        what: In words.
        command: What is typed.
        said: A part of the answer.
        prepare: Makes what the command meets, in the current folder.
        without: Modules that are not installed.
        varies: Whether the answer quotes another program, which speaks differently elsewhere.
    """

    what: str
    command: str
    said: str
    prepare: Callable[[], object] | None = None
    without: tuple[str, ...] = ()
    varies: bool = False


def recipe(name: str, text: str) -> Callable[[], object]:
    return lambda: Path(name).write_text(text)


def changed_recipe(**changes: str) -> Callable[[], object]:
    """recipe.yaml, the tiny one with lines replaced by their first word."""

    def write() -> None:
        lines = dict(line.split(": ", 1) for line in TINY.splitlines())
        Path("recipe.yaml").write_text("".join(f"{k}: {v}\n" for k, v in {**lines, **changes}.items()))

    return write


def changed_run(change: Callable[[Path], object]) -> Callable[[], object]:
    """other/, the trained run with something changed."""

    def write() -> None:
        shutil.copytree("run", "other")
        change(Path("other"))

    return write


def last(run: Path) -> Path:
    return run / "checkpoints" / "last"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def state(run: Path, **changes: object) -> None:
    file = last(run) / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def picture(name: str, content: bytes | None = None) -> Callable[[], object]:
    def write() -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
            Image.fromarray(noise).save(name)
        else:
            Path(name).write_bytes(content)

    return write


def both(*steps: Callable[[], object]) -> Callable[[], object]:
    return lambda: [step() for step in steps]


def bomb() -> bytes:
    """A PNG whose header says 100,000 x 100,000 pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


WRONG = (
    # Words of the command line
    Wrong("a command that does not exist", "plait trian recipe.yaml", "did you mean 'train'?"),
    Wrong("an option that does not exist", "plait train recipe.yaml --ouput x", "did you mean '--out'?"),
    Wrong("a needed word left out", "plait train", "required: RECIPE"),
    Wrong("a number that is none", "plait quickstart --minutes soon", "invalid float value: 'soon'"),
    Wrong("a number that makes no sense", "plait quickstart --minutes -3", "minutes"),
    Wrong("a size that is none", "plait data build rooms --out x --size big", "HEIGHTxWIDTH"),
    Wrong("a list that does not exist", "plait list encoder", "did you mean 'encoders'?"),
    Wrong("a shell that is not known", "plait completion fish", "bash"),
    Wrong("a file where a folder is expected", "plait train recipe.yaml --out afile/x", "afile is a file"),
    Wrong("a folder where a file is expected", "plait evaluate run --json empty", "empty is a folder"),
    # Recipes
    Wrong("a built-in recipe misspelled", "plait train rooms_sharde", "did you mean 'rooms_shared'?"),
    Wrong("a recipe that is a folder", "plait train empty", "empty"),
    Wrong("a recipe that is a picture", "plait train photo.png", "photo.png", picture("photo.png")),
    Wrong(
        "a recipe that is not YAML",
        "plait train recipe.yaml",
        "recipe.yaml",
        recipe("recipe.yaml", "tasks: {depth: {kind: depth}\nmodel: ]"),
    ),
    Wrong(
        "a recipe that would run code",
        "plait train recipe.yaml",
        "recipe.yaml",
        recipe("recipe.yaml", "tasks: !!python/object/apply:os.system [echo]"),
    ),
    Wrong(
        "a key that does not exist",
        "plait train recipe.yaml --training.stepz 3",
        "did you mean 'steps'?",
    ),
    Wrong("a value of another type", "plait train recipe.yaml --training.steps many", "training.steps"),
    Wrong("a value out of range", "plait train recipe.yaml --training.batch_size 0", "batch_size"),
    Wrong("no task at all", "plait train recipe.yaml", "task", changed_recipe(tasks="{}")),
    Wrong(
        "a kind of task that does not exist",
        "plait train recipe.yaml",
        "did you mean 'depth'?",
        changed_recipe(tasks="{depth: {kind: deph}}"),
    ),
    Wrong(
        "a class named twice",
        "plait train recipe.yaml",
        "more than once",
        changed_recipe(tasks="{semantic: {kind: semantic, classes: [wall, wall]}}"),
    ),
    Wrong(
        "a task name that torch uses itself",
        "plait train recipe.yaml",
        "call it 'type_map'",
        changed_recipe(tasks="{type: {kind: depth}}"),
    ),
    Wrong(
        "a backbone that timm does not know",
        "plait train recipe.yaml --model.backbone resnet19",
        "unknown backbone 'resnet19'",
    ),
    Wrong("an encoder misspelled", "plait train recipe.yaml --model.encoder crossstitch", "cross_stitch"),
    Wrong(
        "parts that do not go together",
        "plait train recipe.yaml --model.encoder cross_stitch --balancer.name mgda --balancer.scope features",
        "cut",
    ),
    Wrong(
        "an option that the balancer does not have",
        "plait train recipe.yaml --balancer.name cagrad --balancer.d 0.4",
        "has no option 'd'",
    ),
    Wrong(
        "pretrained weights without a network",
        "plait train recipe.yaml --model.backbone resnet18 --model.pretrained true",
        "cannot be fetched",
        varies=True,
    ),
    Wrong(
        "weights of another network",
        "plait train recipe.yaml --model.weights weights.pth",
        "weights.pth",
        picture("weights.pth", b"not weights"),
    ),
    Wrong(
        "one number for a height and a width",
        "plait train recipe.yaml --augmentation.size 32",
        "augmentation",
    ),
    Wrong(
        "selection on the test split",
        "plait train recipe.yaml --data.validation_split test",
        "the test split",
    ),
    # Data
    Wrong("a data set misspelled", "plait data check citiscapes", "did you mean 'cityscapes'?"),
    Wrong("a data folder that is not there", "plait data check rooms nowhere", "nowhere"),
    Wrong("a data folder without data", "plait data check nyud empty", "named above"),
    Wrong("data without a folder", "plait data check nyud", "nyud needs a root"),
    Wrong("a label that the set does not have", "plait data pack rooms --out x --labels deph", "'depth'?"),
    Wrong("training on a folder that is gone", "plait train recipe.yaml --data.root nowhere", "nowhere"),
    Wrong("a split that does not exist", "plait evaluate run --split dev", "dev"),
    Wrong("a protocol that does not exist", "plait evaluate run --protocol serve", "did you mean 'survey'?"),
    # Runs
    Wrong("a run that is not there", "plait evaluate runs/lost", "runs/lost"),
    Wrong("a folder that is no run", "plait predict empty photo.png --out maps", "not a run's folder"),
    Wrong(
        "a run without a checkpoint",
        "plait evaluate other",
        "train that run first",
        changed_run(lambda run: shutil.rmtree(run / "checkpoints")),
    ),
    Wrong(
        "a checkpoint that is cut off",
        "plait evaluate other",
        "is damaged",
        changed_run(lambda run: cut(last(run) / "model.safetensors")),
    ),
    Wrong(
        "a checkpoint that is a pickle",
        "plait evaluate other",
        "is a pickle",
        changed_run(lambda run: (last(run) / "model.safetensors").write_bytes(b"\x80\x04K\x01.")),
    ),
    Wrong(
        "a checkpoint of a later version",
        "plait evaluate other",
        "format 99",
        changed_run(lambda run: state(run, format=99)),
    ),
    Wrong(
        "going on with another recipe",
        "plait train recipe.yaml --out other --training.steps 2 --optimizer.lr 1",
        "other",
        changed_run(lambda run: None),
    ),
    Wrong(
        "a loss that becomes infinite",
        "plait train recipe.yaml --out diverging --optimizer.lr 1e30 --training.steps 5",
        "not finite",
    ),
    # Predictions
    Wrong("a picture that is not there", "plait predict run nowhere.jpg --out maps", "nowhere.jpg"),
    Wrong(
        "a picture that is a text",
        "plait predict run recipe.yaml --out maps",
        "recipe.yaml",
    ),
    Wrong(
        "a picture that is cut off",
        "plait predict run half.png --out maps",
        "half.png",
        both(picture("half.png"), lambda: cut(Path("half.png"))),
    ),
    Wrong(
        "a picture with a hostile size",
        "plait predict run bomb.png --out maps",
        "bomb.png",
        picture("bomb.png", bomb()),
    ),
    Wrong("a folder without pictures", "plait predict run empty --out maps", "empty"),
    Wrong(
        "a task that the run was not trained on",
        "plait predict run photo.png --tasks normals --out maps",
        "was not trained on 'normals'",
        picture("photo.png"),
    ),
    Wrong(
        "two pictures with one name",
        "plait predict run a b --out maps",
        "photo",
        both(picture("a/photo.png"), picture("b/photo.png")),
    ),
    Wrong(
        "an overlap that is none",
        "plait predict run photo.png --tile 32x32 --overlap 1.5 --out maps",
        "overlap",
        picture("photo.png"),
    ),
    Wrong(
        "a device that is not there",
        "plait predict run photo.png --device cuda --out maps",
        "cuda",
        picture("photo.png"),
        varies=True,
    ),
    Wrong(
        "a video that is damaged",
        "plait predict run film.mp4 --out maps",
        "film.mp4",
        picture("film.mp4", b"not a film"),
    ),
    # Export, demo, hub
    Wrong("a format that does not exist", "plait export run --to onxn", "did you mean 'onnx'?"),
    Wrong(
        "an optional part that is not installed",
        "plait export run --to onnx --out model.onnx",
        "pip install 'plait[export]'",
        without=("onnx", "onnxscript", "onnxruntime"),
    ),
    Wrong(
        "the demo without its part",
        "plait demo run",
        "pip install 'plait[demo]'",
        without=("gradio",),
    ),
    Wrong("a port that is none", "plait demo run --port 99999", "port"),
    Wrong("a name that no hub takes", "plait push run 'hf:not a name'", "not a name"),
    Wrong(
        "a network that no hub has", "plait predict hf:nobody/nothing photo.png --out maps", "nobody/nothing"
    ),
    # Studies and reports
    Wrong("a study that does not exist", "plait study run rooms/balancin", "did you mean"),
    Wrong(
        "a study without arms",
        "plait study run study.yaml",
        "arms must be one or more",
        recipe("study.yaml", "name: mine\nrecipe: recipe.yaml\n"),
    ),
    Wrong("a study that was never started", "plait study status nowhere", "nowhere"),
    Wrong("a report of nothing", "plait report empty", "empty"),
    Wrong("scores of maps without labels", "plait evaluate --predictions empty", "--targets"),
    Wrong("a tree from a single network", "plait branch run", "run"),
)


@contextlib.contextmanager
def world() -> Iterator[Path]:
    """A folder with a file, an empty folder, rooms, a recipe and a trained run, as the current one."""
    import plait

    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        Path("afile").touch()
        Path("empty").mkdir()
        write_tiny_rooms(Path("rooms"), images=(2, 1, 2), size=(32, 48))
        Path("recipe.yaml").write_text(TINY)
        plait.train(load_recipe(Path("recipe.yaml")), Path("run"))
        yield Path(name)


def answer(wrong: Wrong, start: Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in a copy of the world."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(start, name, dirs_exist_ok=True, symlinks=True)
        out, err = io.StringIO(), io.StringIO()
        absent = dict.fromkeys(wrong.without)
        with (
            contextlib.chdir(name),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.dict("sys.modules", absent),
        ):
            if wrong.prepare is not None:
                wrong.prepare()
            code = main(shlex.split(wrong.command)[1:])
    return code, out.getvalue(), err.getvalue()


def answered(err: str) -> str:
    """What is said, without the bar of work that had begun."""
    lines = err.strip().splitlines()
    return " ".join(line for line in lines if "━" not in line)


def row(wrong: Wrong, err: str) -> str:
    """A row of the page."""
    sentence = (
        answered(err).removeprefix("plait: ").replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
    )
    return f"| {wrong.what} | `{wrong.command}` | {sentence} |"


def page() -> str:
    with world() as start:
        rows = []
        for wrong in WRONG:
            code, _, err = answer(wrong, start)
            rows.append(row(wrong, err))
            if code != 2 or wrong.said not in err or answered(err).count("plait: ") != 1:
                print(f"--- {wrong.command}: exit {code}, expected {wrong.said!r}\n{err}")
    return "\n".join(
        [
            "# Wrong input, and the answers",
            "",
            f"{len(WRONG)} kinds of wrong input and what plait says to each: one sentence and exit code 2,",
            "and with `--debug` the traceback. `python -m tests.first_contact.wrong_inputs` writes this,",
            "and a test asks each again.",
            "",
            "| what is wrong | command | answer |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    PAGE.write_text(page())
