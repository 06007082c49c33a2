"""Scores of a split: numbers by task and measure, with how to read them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.errors import DataError

if TYPE_CHECKING:
    from rich.table import Table

    from plait.tasks.base import Measure, Task


@dataclass(frozen=True)
class Scores(Mapping[str, Mapping[str, float]]):
    """``{task: {measure: number}}``: shares in [0, 1], depth in metres, angles in degrees, NaN if undefined.

    Attributes:
        by_task: The numbers.
        measures: How each task's numbers are read, the headline measure first.
        split: Which split they are of.
        images: How many images were scored.
    """

    by_task: Mapping[str, Mapping[str, float]]
    measures: Mapping[str, Sequence[Measure]]
    split: str = ""
    images: int = 0

    def __getitem__(self, task: str) -> Mapping[str, float]:
        return self.by_task[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_task)

    def __len__(self) -> int:
        return len(self.by_task)

    @classmethod
    def of(cls, tasks: Sequence[Task], values: Mapping[str, Mapping[str, float]], **about: Any) -> Scores:
        """Scores of tasks: of what their metrics computed, the measures that are reported."""
        scored = [task for task in tasks if task.name in values]
        reported = {
            task.name: {
                m.name: values[task.name][m.name] for m in task.measures if m.name in values[task.name]
            }
            for task in scored
        }
        return cls(reported, {task.name: task.measures for task in scored}, **about)

    def table(self) -> Table:
        """A table for the terminal: a row a measure with its protocol and direction, shares in percent."""
        from rich.table import Table

        about = [self.split] * bool(self.split) + [f"{self.images} image{'s' * (self.images != 1)}"] * bool(
            self.images
        )
        table = Table(title=", ".join(about) or None)
        table.add_column("task")
        table.add_column("measure")
        table.add_column("protocol")
        table.add_column("score", justify="right")
        for task, values in self.by_task.items():
            known = [measure for measure in self.measures[task] if measure.name in values]
            for place, measure in enumerate(known):
                table.add_row(
                    task if place == 0 else "",
                    f"{measure.title} {'↑' if measure.higher_is_better else '↓'}",
                    measure.protocol,
                    shown(values[measure.name], measure),
                    end_section=place + 1 == len(known),
                )
        return table

    def json(self) -> str:
        """As JSON text; what is not finite becomes null."""
        about = {
            "split": self.split,
            "images": self.images,
            "scores": {
                task: {name: value if math.isfinite(value) else None for name, value in numbers.items()}
                for task, numbers in self.by_task.items()
            },
            "measures": {
                task: [asdict(measure) for measure in measures] for task, measures in self.measures.items()
            },
        }
        return json.dumps(about, indent=1, allow_nan=False)

    def save(self, path: Path | str) -> None:
        """Writes them to a JSON file; its folder is made."""
        from plait.training.checkpoint import write_atomically

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.json() + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Scores:
        """Reads what :meth:`save` wrote; measures without a protocol are plain ones.

        Raises:
            DataError: If the file is not that.
        """
        from plait.tasks.base import Measure

        try:
            about = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(
                {
                    task: {
                        name: math.nan if value is None else float(value) for name, value in numbers.items()
                    }
                    for task, numbers in about["scores"].items()
                },
                {
                    task: tuple(Measure(**measure) for measure in measures)
                    for task, measures in about["measures"].items()
                },
                split=about["split"],
                images=about["images"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} does not hold scores: {error}") from error


def shown(value: float, measure: Measure) -> str:
    """A number as a table prints it.

    >>> from plait.tasks.base import Measure
    >>> shown(0.4567, Measure("miou", "mIoU", "%", True)), shown(0.61, Measure("rmse", "RMSE", "m", False))
    ('45.67 %', '0.610 m')
    """
    if math.isnan(value):
        return "-"
    if measure.unit == "%":
        return f"{100 * value:.2f} %"
    return f"{value:.2f}°" if measure.unit == "°" else f"{value:.3f} {measure.unit}".rstrip()
