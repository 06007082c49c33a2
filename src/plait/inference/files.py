"""Predictions of files and folders, written to a folder: raw maps, pictures, and what they are.

::

    OUT/TASK/ID.png             or .npy; the maps, see :mod:`plait.inference.stored`
    OUT/TASK/VIDEO/000123.png   likewise of the frames of a video, numbered from 0
    OUT/pictures/TASK/ID.png    the maps in colours; VIDEO.mp4 of a video
    OUT/pictures/all-tasks/     the picture and all its maps on one sheet
    OUT/predictions.json        how they were made, and what the numbers mean
    OUT/files.jsonl             a line for each finished picture, with its file and size
    OUT/scoring.yaml            what ``plait evaluate --predictions OUT --scoring`` needs

Files are whole or not there, and a picture has its line once all of its files are written. So work that was
stopped, at any moment, goes on where it was.
"""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

from plait.errors import ConfigurationError, DataError
from plait.inference import videos
from plait.inference.inputs import Input, Inputs, counted, find, is_video
from plait.inference.ledger import OVERVIEW, PICTURES, Ledger, check_name, held, open_folder
from plait.inference.pictures import Pixels
from plait.inference.prediction import Prediction
from plait.inference.predictor import Fitted, Predictor
from plait.inference.stored import HIGHEST, Format, Stored, png
from plait.training.checkpoint import explained_full_disk, write_atomically

READERS = 2
WRITERS = 2
"""Threads beside the one that has the network."""

IN_FLIGHT = 2**25
"""Pixels of pictures whose maps wait to be written; more are kept back until some are on the disk."""

NAMED = 10
"""How many unreadable files a sentence names."""

T = TypeVar("T")
Progress = Callable[[int, int], None]
Line = dict[str, Any]


@dataclass
class Summary:
    """What was done.

    Attributes:
        out: Where it is.
        sizing: How pictures were brought to the network, in words.
        pictures: How many are finished.
        frames: How many frames of videos are finished.
        videos: How many videos are finished.
        already: How many of the pictures and frames were finished before.
        changed: How many were predicted again, because their files had changed since.
        failures: What is wrong with each file that could not be read, a sentence each.
        left_alone: Files in folders that are not predicted, in words.
        lost: What 16 bits could not hold, a sentence a task.
    """

    out: Path
    sizing: str
    pictures: int = 0
    frames: int = 0
    videos: int = 0
    already: int = 0
    changed: int = 0
    failures: list[str] = field(default_factory=list)
    left_alone: str = ""
    lost: list[str] = field(default_factory=list)

    def sentences(self) -> list[str]:
        """For a person, without the failures; none if those are all there is."""
        what = []
        if self.failures and not self.pictures and not self.frames:
            return []
        if self.pictures or not self.videos:
            what.append(counted(self.pictures, "picture"))
        if self.videos:
            what.append(f"{counted(self.videos, 'video')} ({counted(self.frames, 'frame')})")
        were = "was" if self.already == 1 else "were"
        before = f" ({self.already:,} {were} there already)" if self.already else ""
        said = [f"{' and '.join(what)}{before}, {self.sizing}, in {self.out}"]
        if self.changed:
            which = (
                "1 was predicted again, because its file"
                if self.changed == 1
                else (f"{self.changed:,} were predicted again, because their files")
            )
            said.append(f"{which} had changed")
        if self.left_alone:
            said.append(f"left alone: {self.left_alone}")
        return said + self.lost

    @property
    def failure(self) -> str:
        """One sentence that names the files that could not be read; empty if all could."""
        if not self.failures:
            return ""
        rest = "everything else is done, but " if self.pictures or self.frames else ""
        if len(self.failures) == 1:
            return f"{rest}{self.failures[0]}"
        named = "; ".join(self.failures[:NAMED])
        more = f"; and {len(self.failures) - NAMED:,} more" if len(self.failures) > NAMED else ""
        return f"{rest}{len(self.failures):,} files could not be read: {named}{more}"


def predict_files(
    predictor: Predictor,
    named: Sequence[Path | str],
    out: Path | str,
    *,
    format: Format = "png",  # noqa: A002  the option's name
    pictures: bool = True,
    batch: int | None = None,
    every: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Predicts pictures, folders of them and videos, and writes the maps.

    Files that are finished already are not predicted again, unless they have changed since. Decoding and
    writing go on in threads while the network computes.

    Args:
        predictor: What predicts.
        named: Files and folders; see :func:`plait.inference.inputs.find`.
        out: The folder they go to.
        format: ``png``, or ``npy`` for arrays alone.
        pictures: Whether maps are also drawn in colours.
        batch: Pictures that the network sees together; None as its evaluation does.
        every: Of videos, each frame whose number is a multiple of this.
        overwrite: Whether what an earlier call wrote is removed first.
        progress: Told of pictures (and frames) done and in all.

    Raises:
        ConfigurationError: If an option is wrong, ``out`` holds predictions that were made in another way, or
            another process writes to it.
        DataError: If something is not there, holds no picture, or two files would have one name. A file that
            cannot be read is no such error: it is named in what is returned.
        DiskFullError: If the disk is full.
        MissingExtraError: If there are videos, and OpenCV is not installed.
    """
    out = Path(out)
    batch = predictor.recipe.evaluation.batch_size if batch is None else batch
    for option, value in (("batch", batch), ("every", every)):
        if value < 1:
            raise ConfigurationError(f"{option} must be 1 or more, got {value}")
    stored = tuple(Stored(task, format) for task in predictor.tasks)
    inputs = find(named, out=out)
    if inputs.videos:
        videos.library()
    with explained_full_disk(f"predictions in {out}"), held(out):
        ledger = open_folder(out, predictor, stored, pictures=pictures, every=every, overwrite=overwrite)
        work = _Work(predictor, stored, Output(out, stored, pictures), ledger, batch, every, progress)
        return work.done(inputs)


@dataclass(frozen=True)
class Output:
    """The files of a folder of predictions.

    Attributes:
        out: The folder.
        stored: How each task's maps are stored.
        pictures: Whether they are drawn in colours too.
    """

    out: Path
    stored: tuple[Stored, ...]
    pictures: bool = True

    def raw(self, stored: Stored, name: str) -> Path:
        """The file of a map."""
        return self.out / stored.task.name / f"{name}{stored.suffix}"

    def drawn(self, task: str, name: str, suffix: str = ".png") -> Path:
        """The file of a picture, or of a video of pictures."""
        return self.out / PICTURES / task / f"{name}{suffix}"

    def files(self, name: str, *, frame: bool = False) -> list[Path]:
        """All files of a name; frames of videos have no pictures of their own."""
        found = [self.raw(one, name) for one in self.stored]
        if self.pictures and not frame:
            found += [self.drawn(one.task.name, name) for one in self.stored]
            found.append(self.drawn(OVERVIEW, name))
        return found

    def write(self, name: str, prediction: Prediction, *, frame: bool = False) -> Line:
        """Writes all files of a name.

        Returns:
            What is to be noted: the size, and how many pixels 16 bits could not hold.
        """
        check_name(name)
        lost: dict[str, list[int]] = {}
        for one in self.stored:
            found = prediction[one.task.name]
            content = one.encoded(found.values)
            _write(self.raw(one, name), content.content)
            if content.beyond or content.unknown:
                lost[one.task.name] = [content.beyond, content.unknown]
            if self.pictures and not frame:
                _write(self.drawn(one.task.name, name), png(found.picture))
        if self.pictures and not frame:
            _write(self.drawn(OVERVIEW, name), png(prediction.overview()))
        return {"size": list(prediction.size), **({"lost": lost} if lost else {})}


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}): name another folder"
        ) from error


@dataclass
class _Work:
    """One call: reads ahead, predicts, writes behind."""

    predictor: Predictor
    stored: tuple[Stored, ...]
    output: Output
    ledger: Ledger
    batch: int
    every: int
    progress: Progress | None
    told: int = 0
    total: int = 0

    def done(self, inputs: Inputs) -> Summary:
        refuse_mixed(inputs, self.ledger)
        summary = Summary(self.output.out, self.predictor.sizing.told(), left_alone=inputs.left_alone)
        self.total = len(inputs.pictures)
        self._pictures(inputs.pictures, summary)
        for video in inputs.videos:
            try:
                self._video(video, summary)
            except DataError as error:
                summary.failures.append(str(error))
        self.ledger.finish()
        names = {one.id for one in inputs.pictures} | {f"{one.id}/" for one in inputs.videos}
        lines = [
            line
            for name, line in self.ledger.lines.items()
            if name in names or f"{name.rpartition('/')[0]}/" in names
        ]
        summary.lost = [sentence for one in self.stored for sentence in lost(one, lines)]
        return summary

    # --- pictures ---------------------------------------------------------------------------------------

    def _pictures(self, pictures: Sequence[Input], summary: Summary) -> None:
        """Groups stay the same whatever is finished: of one that is not, all are predicted."""
        groups = []
        for start in range(0, len(pictures), self.batch):
            group = pictures[start : start + self.batch]
            finished = [self._finished(one.id, one.state) for one in group]
            summary.changed += sum(
                one.id in self.ledger.lines and self._state(one.id) != one.state for one in group
            )
            if all(finished):
                summary.pictures += len(group)
                summary.already += len(group)
                self._tell(len(group))
            else:
                groups.append(group)
        with ThreadPoolExecutor(READERS) as readers, self._writing() as writing:
            for group, read in zip(
                groups, _ahead(readers, (partial(self._read, g) for g in groups)), strict=True
            ):
                good = [
                    (one, found) for one, found in zip(group, read, strict=True) if isinstance(found, Fitted)
                ]
                summary.failures += [str(found) for found in read if isinstance(found, DataError)]
                self._tell(len(read) - len(good))
                for place, prediction in self.predictor.predictions([found for _, found in good]):
                    one = good[place][0]
                    writing.add(prediction, one.id, {"file": str(one.path), **one.state})
                    summary.pictures += 1

    def _read(self, group: Sequence[Input]) -> list[Fitted | DataError]:
        read: list[Fitted | DataError] = []
        for one in group:
            try:
                read.append(self.predictor.fitted(one.path))
            except DataError as error:
                read.append(error)
        return read

    def _state(self, name: str) -> Mapping[str, int]:
        line = self.ledger.lines.get(name, {})
        return {key: line.get(key, -1) for key in ("bytes", "modified")}

    def _finished(self, name: str, state: Mapping[str, int], *, frame: bool = False) -> bool:
        return self._state(name) == state and all(
            path.is_file() for path in self.output.files(name, frame=frame)
        )

    def _tell(self, more: int) -> None:
        self.told += more
        self.total = max(self.total, self.told)
        if self.progress is not None and more:
            self.progress(self.told, self.total)

    def _writing(self) -> _Writing:
        return _Writing(self.output, self.ledger, self._tell)

    # --- videos -----------------------------------------------------------------------------------------

    def _video(self, video: Input, summary: Summary) -> None:
        if self._state(video.id) != video.state and video.id in self.ledger.lines:
            summary.changed += 1
        numbers = self._finished_video(video)
        if numbers is None:
            self._forget_other_frames(video)
            numbers = self._frames(video, summary)
        else:
            summary.already += len(numbers)
            self.total += len(numbers)
            self._tell(len(numbers))
        summary.videos += 1
        summary.frames += len(numbers)

    def _finished_video(self, video: Input) -> list[int] | None:
        """The numbers of its frames, if all is there."""
        line = self.ledger.lines.get(video.id)
        if line is None or self._state(video.id) != video.state or "frames" not in line:
            return None
        numbers = list(range(0, int(line["frames"]), self.every))
        drawn = [self.output.drawn(one.task.name, video.id, ".mp4") for one in self.stored]
        there = all(self._finished(frame_id(video, n), video.state, frame=True) for n in numbers)
        return numbers if there and (not self.output.pictures or all(p.is_file() for p in drawn)) else None

    def _forget_other_frames(self, video: Input) -> None:
        """Removes the frames of an earlier state of its file."""
        for name in [name for name in self.ledger.lines if name.startswith(f"{video.id}/")]:
            if self._state(name) != video.state:
                del self.ledger.lines[name]
                for path in self.output.files(name, frame=True):
                    path.unlink(missing_ok=True)
        self.ledger.lines.pop(video.id, None)
        self.ledger.finish()

    def _frames(self, video: Input, summary: Summary) -> list[int]:
        """Predicts the frames that are not finished; the numbers of all."""
        numbers: list[int] = []
        with videos.opened(video.path) as opened:
            announced = -(-opened.announced // self.every)
            self.total += announced
            with ThreadPoolExecutor(1) as reader, self._writing() as writing:
                for group in _ahead(reader, repeat(partial(self._read_frames, video, opened))):
                    if not group:
                        break
                    numbers += [number for number, _ in group]
                    wanted = [(number, found) for number, found in group if found is not None]
                    summary.already += len(group) - len(wanted)
                    self._tell(len(group) - len(wanted))
                    for place, prediction in self.predictor.predictions([found for _, found in wanted]):
                        name = frame_id(video, wanted[place][0])
                        writing.add(prediction, name, {"file": str(video.path), **video.state}, frame=True)
            self.total += len(numbers) - announced
            if not numbers:
                raise DataError(f"{video.path}: expected a video, found no frame in it; get it again")
            if self.output.pictures:
                self._draw(video, numbers, opened.rate / self.every)
            if not opened.complete:
                raise DataError(
                    f"{video.path} is damaged: it ends after {opened.read:,} of the {opened.announced:,} "
                    f"frames that its header says; those are predicted"
                )
        self.ledger.add({"id": video.id, "file": str(video.path), **video.state, "frames": opened.read})
        return numbers

    def _read_frames(self, video: Input, opened: videos.Video) -> list[tuple[int, Fitted | None]]:
        """The next group of frames, of which all are predicted or none."""
        first = -(-opened.read // self.every) * self.every
        group = range(first, first + self.batch * self.every, self.every)
        finished = all(self._finished(frame_id(video, number), video.state, frame=True) for number in group)
        taken: list[tuple[int, Pixels | None]] = opened.take(self.batch, self.every, lambda _: not finished)
        return [(number, None if frame is None else self.predictor.fitted(frame)) for number, frame in taken]

    def _draw(self, video: Input, numbers: Sequence[int], rate: float) -> None:
        """The video of each task's pictures, from its files: so it is the same however often work stopped."""
        for one in self.stored:
            path = self.output.drawn(one.task.name, video.id, ".mp4")
            path.parent.mkdir(parents=True, exist_ok=True)
            maps = (one.read(self.output.raw(one, frame_id(video, number))) for number in numbers)
            videos.write(path, (one.task.picture(decoded) for decoded in maps), rate)


def refuse_mixed(inputs: Inputs, ledger: Ledger) -> None:
    """Keeps the frames of a video and pictures of an earlier call out of one folder, and the other way round.

    Raises:
        DataError: If they would meet.
    """
    earlier = {
        name: Path(str(line.get("file"))) for name, line in ledger.lines.items() if "frames" not in line
    }
    folders = {name.rpartition("/")[0]: file for name, file in earlier.items() if is_video(file)}
    meetings = [(one, folders.get(one.id.rpartition("/")[0])) for one in inputs.pictures]
    meetings += [
        (
            video,
            next((f for n, f in earlier.items() if n.startswith(f"{video.id}/") and not is_video(f)), None),
        )
        for video in inputs.videos
    ]
    for one, other in meetings:
        if other is not None:
            raise DataError(
                f"{one.path} would be written into the folder of {other}, which is predicted already: name "
                f"another folder for predictions"
            )


def frame_id(video: Input, number: int) -> str:
    """The name of a frame."""
    return f"{video.id}/{number:06d}"


class _Writing:
    """Writes in threads, and notes what is finished in the order in which it came."""

    def __init__(self, output: Output, ledger: Ledger, tell: Callable[[int], None]) -> None:
        self.output, self.ledger, self.tell = output, ledger, tell
        self.pool = ThreadPoolExecutor(WRITERS)
        self.waiting: deque[tuple[Future[Line], Line, int]] = deque()
        self.pixels = 0

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self.waiting and kind is None:
                self._note_first()
        finally:
            self.pool.shutdown(cancel_futures=True)

    def add(self, prediction: Prediction, name: str, line: Line, *, frame: bool = False) -> None:
        """Has the files of a name written; waits while too much is waiting."""
        pixels = prediction.size[0] * prediction.size[1]
        while self.waiting and (self.pixels + pixels > IN_FLIGHT or len(self.waiting) > 4 * WRITERS):
            self._note_first()
        write = self.pool.submit(self.output.write, name, prediction, frame=frame)
        self.waiting.append((write, {"id": name, **line}, pixels))
        self.pixels += pixels

    def _note_first(self) -> None:
        write, line, pixels = self.waiting.popleft()
        self.ledger.add({**line, **write.result()})
        self.pixels -= pixels
        self.tell(1)


def _ahead(pool: ThreadPoolExecutor, work: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Results in the order of the work, a little of it done ahead by a pool."""
    waiting: deque[Future[T]] = deque()
    try:
        for make in work:
            waiting.append(pool.submit(make))
            if len(waiting) > READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for left in waiting:
            left.cancel()


def lost(stored: Stored, lines: Sequence[Line]) -> Iterator[str]:
    """What 16 bits could not hold of a task, over all pictures."""
    counts: Counter[str] = Counter()
    for line in lines:
        beyond, unknown = line.get("lost", {}).get(stored.task.name, (0, 0))
        counts.update(beyond=int(beyond), unknown=int(unknown))
    if stored.step is None or not counts.total():
        return
    name, unit = stored.task.name, f" {stored.task.unit}" if stored.task.unit else ""
    lowest = stored.step if stored.task.zero_is_unknown else 0
    if counts["beyond"]:
        yield (
            f"{counted(counts['beyond'], 'pixel')} of {name} lie beyond what its 16-bit pictures hold, "
            f"{lowest:g} to {HIGHEST * stored.step:g}{unit}, and have the nearest value there: "
            f"the format npy keeps them"
        )
    if counts["unknown"]:
        yield (
            f"{counted(counts['unknown'], 'pixel')} of {name} are no finite numbers and were written as 0: "
            f"the format npy keeps them"
        )
