"""Networks side by side: the same numbers as a terminal table, Markdown, CSV, JSON and (in the report) HTML.

Only numbers that were run can be in a :class:`Comparison`: it is filled from run folders, and has no place
for a figure quoted from a paper.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plait.errors import ConfigurationError
from plait.metrics import PROTOCOLS, relative_gain
from plait.tasks.base import Measure

if TYPE_CHECKING:
    from rich.table import Table

    from plait.metrics.relative_gain import Variant
    from plait.study.cost import Cost

Scores = Mapping[str, Mapping[str, float]]
"""``{task: {measure: value}}``, shares in [0, 1], depth in metres, angles in degrees."""

CONSTANT = "constant"
"""The column of the best constant prediction."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One column: a trained network, or the single-task networks taken together.

    Attributes:
        name: What the table calls it.
        scores: Its scores on the reported split; a task it does not predict is absent.
        networks: How many networks it takes to predict all of them.
        cost: Parameters, operations, latency and memory, summed over those networks; None if not measured.
        train_seconds: Wall time of the training, in seconds, summed over those networks; None if unknown.
        train_cpu_seconds: The same in CPU-seconds, which a busy machine changes little.
        comparable: Whether it was trained by the reference's recipe, so that a relative gain has a meaning.
    """

    name: str
    scores: Scores
    networks: int = 1
    cost: Cost | None = None
    train_seconds: float | None = None
    train_cpu_seconds: float | None = None
    comparable: bool = True

    @property
    def title(self) -> str:
        """The name, with the number of networks if there is more than one."""
        return self.name if self.networks == 1 else f"{self.name} ({self.networks} networks)"


@dataclass(frozen=True)
class Line:
    """One line of the table: a measure or a cost over all columns.

    Attributes:
        section: What it belongs to: a task's name, ``relative gain`` or ``cost``.
        title: Its name, with its unit.
        direction: ``higher`` or ``lower``, which one is better.
        values: A number a column, in the unit the title names; None where there is none.
        texts: The same as a person reads it.
        headline: Whether this is the task's headline measure, or the mean relative gain.
        protocol: By whose rules a measure is taken, which the title says too; empty for anything else.
    """

    section: str
    title: str
    direction: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...]
    headline: bool = False
    protocol: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Arms beside each other, on the same tasks and the same split, scored by one protocol.

    Attributes:
        tasks: The measures of each task, the headline measure first.
        arms: The columns.
        constant: Scores of the best constant prediction; None if they were not computed.
        reference: Name of the arm that relative gain and cost ratios refer to; None if there is none.
        notes: What a reader must know with the numbers, a sentence each.

    Raises:
        ConfigurationError: If two arms have one name, the reference is not among them, or measures are of two
            protocols (beside plain ones, which a protocol leaves where its code scores nothing).
    """

    tasks: Mapping[str, tuple[Measure, ...]]
    arms: tuple[Arm, ...]
    constant: Scores | None = None
    reference: str | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ConfigurationError(
                f"two arms of a comparison have one name among {names}: rename a run folder"
            )
        if self.reference is not None and self.reference not in names:
            raise ConfigurationError(f"the reference {self.reference!r} is not among the arms {names}")
        if len(self._named) > 1:
            raise ConfigurationError(
                f"measures by the protocols {join(self._named)} cannot be in one comparison: "
                f"score all arms by one protocol"
            )

    @property
    def _named(self) -> list[str]:
        """The protocols of the measures, plain aside."""
        found = {measure.protocol for measures in self.tasks.values() for measure in measures}
        return sorted(found - {"plain"})

    @property
    def protocol(self) -> str:
        """By whose rules the arms were scored."""
        return self._named[0] if self._named else "plain"

    @property
    def variant(self) -> Variant:
        """How the relative gain is formed: as the protocol's authors do."""
        return PROTOCOLS[self.protocol].variant

    @property
    def columns(self) -> tuple[str, ...]:
        """The heads of the columns of :meth:`lines`."""
        first = (CONSTANT,) if self.constant is not None else ()
        return first + tuple(arm.title for arm in self.arms)

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def gains(self, arm: Arm) -> dict[str, float]:
        """Relative gain of each task, and ``mean``, in percent over the reference; positive is better.

        Empty for the reference itself, without a reference, for an arm that lacks one of its tasks (a mean
        over fewer tasks would not compare), and where the reference scores 0, to which nothing is relative.
        """
        if self.reference is None or arm.name == self.reference or not arm.comparable or self.zeros:
            return {}
        single = self.arm(self.reference).scores
        entering = self.entering
        measured = [
            scores.get(task, {}).get(measure.name)
            for task, measures in entering.items()
            for measure in measures
            for scores in (arm.scores, single)
        ]
        if any(value is None or not math.isfinite(value) for value in measured):
            return {}
        gain = relative_gain(
            {task: arm.scores[task] for task in entering},
            {task: single[task] for task in entering},
            entering,
            variant=self.variant,
        )
        return {**{task: 100 * value for task, value in gain.per_task.items()}, "mean": 100 * gain.mean}

    @property
    def zeros(self) -> list[str]:
        """The reference's scores that are 0 and would enter the relative gain."""
        if self.reference is None:
            return []
        single = self.arm(self.reference).scores
        return [
            f"{measure.title} of {task}"
            for task, measures in self.entering.items()
            for measure in measures
            if single.get(task, {}).get(measure.name) == 0
        ]

    @property
    def entering(self) -> dict[str, tuple[Measure, ...]]:
        """The measures of each task that enter the relative gain."""
        if self.variant == "libmtl":
            return dict(self.tasks)
        return {task: measures[:1] for task, measures in self.tasks.items()}

    def lines(self) -> Iterator[Line]:
        """Every line of the full table: all measures by task, then relative gain, then cost."""
        rows = ([self.constant] if self.constant is not None else []) + [arm.scores for arm in self.arms]
        for task, measures in self.tasks.items():
            for measure in measures:
                factor = 100.0 if measure.unit == "%" else 1.0
                found = [scores.get(task, {}).get(measure.name) for scores in rows]
                values = tuple(None if v is None or math.isnan(v) else v * factor for v in found)
                yield Line(
                    section=task,
                    title=f"{with_unit(measure)}, {measure.protocol}",
                    direction="higher" if measure.higher_is_better else "lower",
                    values=values,
                    texts=tuple(show(value, DIGITS.get(measure.unit, 3)) for value in values),
                    headline=measure is measures[0],
                    protocol=measure.protocol,
                )
        yield from self.gain_lines()
        yield from self.cost_lines()

    def gain_lines(self) -> Iterator[Line]:
        """Relative gain, a line a task and their mean; nothing if no arm has one."""
        gains = [self.gains(arm) for arm in self.arms]
        before: tuple[None, ...] = (None,) if self.constant is not None else ()
        if not any(gains):
            return
        for task in (*self.tasks, "mean"):
            values = before + tuple(gain.get(task) for gain in gains)
            yield Line(
                section="relative gain",
                title=self.gain_title(task),
                direction="higher",
                values=values,
                texts=tuple(show(value, 1, sign=True) for value in values),
                headline=task == "mean",
            )

    def gain_title(self, task: str) -> str:
        """What a line of relative gain is of: a task, or the ``mean`` over them with its variant."""
        if task == "mean":
            return f"mean (%), variant {self.variant}"
        entering = self.entering[task]
        of = entering[0].title if len(entering) == 1 else f"mean of {len(entering)} measures"
        return f"{task}, {of} (%)"

    def cost_lines(self) -> Iterator[Line]:
        """What each column costs, with its ratio to the reference; a quantity nobody measured has no line."""
        before: tuple[None, ...] = (None,) if self.constant is not None else ()
        for title, digits, read in COSTS:
            values = before + tuple(read(arm) for arm in self.arms)
            if all(value is None for value in values):
                continue
            base = read(self.arm(self.reference)) if self.reference is not None else None
            texts = []
            for column, value in enumerate(values):
                text = show(value, digits)
                is_reference = (
                    column >= len(before) and self.arms[column - len(before)].name == self.reference
                )
                if base and value is not None and not is_reference:
                    text += f" ({value / base:.2f}×)"
                texts.append(text)
            yield Line("cost", title, "lower", values, tuple(texts))

    def table(self) -> Table:
        """The full table for a terminal (rich)."""
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title="Scores on held-out images, one column a network",
            caption="\n".join(self.notes) or None,
            caption_justify="left",
            title_justify="left",
        )
        table.add_column("", no_wrap=True)
        for column in self.columns:
            table.add_column(column, justify="right", overflow="fold")
        section = ""
        for line in self.lines():
            if line.section != section:
                if section:
                    table.add_section()
                table.add_row(Text(line.section, style="bold"))
                section = line.section
            arrow = {"higher": " ↑", "lower": " ↓"}[line.direction] if section in self.tasks else ""
            style = "bold" if line.headline else ""
            table.add_row(
                Text(f"  {line.title}{arrow}", style=style), *(Text(t, style=style) for t in line.texts)
            )
        return table

    def markdown(self) -> str:
        """The full table and its notes in GitHub's Markdown."""
        heads = ["", "measure", *self.columns]
        rows = [heads, ["---", "---", *("---:" for _ in self.columns)]]
        section = ""
        for line in self.lines():
            rows.append([line.section if line.section != section else "", line.title, *line.texts])
            section = line.section
        table = "\n".join("| " + " | ".join(escape(cell) for cell in row) + " |" for row in rows)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"{table}\n\n{notes}\n" if notes else f"{table}\n"

    def csv(self) -> str:
        """The full table with unrounded numbers: a line a measure, an empty cell where there is no number."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["section", "measure", "better", *self.columns])
        for line in self.lines():
            cells = ["" if value is None else repr(value) for value in line.values]
            writer.writerow([line.section, line.title, line.direction, *cells])
        return file.getvalue()

    def to_json(self) -> str:
        """The same as JSON: ``columns``, ``lines``, ``protocol``, ``variant`` of the gain and ``notes``."""
        tree: dict[str, Any] = {
            "columns": list(self.columns),
            "lines": [
                {
                    "section": x.section,
                    "measure": x.title,
                    "protocol": x.protocol or None,
                    "better": x.direction,
                    "values": [v if v is None or math.isfinite(v) else None for v in x.values],
                }
                for x in self.lines()
            ],
            "protocol": self.protocol,
            "variant": self.variant,
            "reference": self.reference,
            "notes": list(self.notes),
        }
        return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def sentences(self) -> list[str]:
        """What the numbers say in plain words, and no more than that."""
        said = []
        for arm in self.arms:
            gains = self.gains(arm)
            if not gains or self.reference is None:
                continue
            single = self.arm(self.reference)
            better = [task for task in self.tasks if gains[task] > 0]
            worse = [task for task in self.tasks if gains[task] < 0]
            parts = [f"better on {join(better)}"] * bool(better) + [f"worse on {join(worse)}"] * bool(worse)
            said.append(
                f"Beside {single.title}, {arm.name} was {' and '.join(parts) or 'level'} in this run: "
                f"a mean relative gain of {show(gains['mean'], 1, sign=True)} % over {self.gained_over()}."
            )
            said.extend(cost_sentence(arm, single))
        if self.zeros:
            said.append(f"No relative gain: {self.reference} scores 0 in {join(self.zeros)}.")
        if self.constant is not None:
            said.extend(self.below_constant())
        return said

    def gained_over(self) -> str:
        """What the mean relative gain is a mean of, in words."""
        if self.variant == "libmtl":
            return f"{len(self.tasks)} tasks, each the mean over its measures (variant libmtl)"
        return f"{len(self.tasks)} headline measures (variant {self.variant})"

    def below_constant(self) -> Iterator[str]:
        """A sentence for each arm and task that does not beat the constant prediction."""
        assert self.constant is not None
        for arm in self.arms:
            lost = []
            for task, measures in self.tasks.items():
                ours, theirs = (s.get(task, {}).get(measures[0].name) for s in (arm.scores, self.constant))
                if ours is not None and theirs is not None:
                    ahead = ours > theirs if measures[0].higher_is_better else ours < theirs
                    lost += [task] * (not ahead)
            if lost:
                yield f"{arm.name} did not beat a constant prediction on {join(lost)}: it has learned little."


def cost_sentence(arm: Arm, single: Arm) -> Iterator[str]:
    """How the cost of an arm compares with the sum of the single-task networks."""
    if arm.cost is None or single.cost is None:
        return
    parameters = arm.cost.parameters / single.cost.parameters
    macs = arm.cost.macs / single.cost.macs
    yield (
        f"To predict all tasks, {arm.name} holds {parameters:.2f} times the parameters and needs {macs:.2f} "
        f"times the multiply-accumulates of {single.title} together."
    )


def with_unit(measure: Measure) -> str:
    """A measure's title with its unit.

    >>> with_unit(Measure("rmse", "RMSE", "m", False))
    'RMSE (m)'
    """
    return f"{measure.title} ({measure.unit})" if measure.unit else measure.title


DIGITS = {"%": 1, "m": 3, "°": 1}

COSTS: tuple[tuple[str, int, Callable[[Arm], float | None]], ...] = (
    ("parameters (M)", 2, lambda arm: of_cost(arm, "parameters", 1e-6)),
    ("multiply-accumulates an image (G)", 2, lambda arm: of_cost(arm, "macs", 1e-9)),
    ("latency, one image (ms)", 1, lambda arm: of_cost(arm, "latency", 1e3)),
    ("memory, one image (MB)", 1, lambda arm: of_cost(arm, "memory", 1e-6)),
    ("a training step (ms)", 0, lambda arm: of_cost(arm, "step_seconds", 1e3)),
    ("memory, a training step (MB)", 0, lambda arm: of_cost(arm, "step_memory", 1e-6)),
    ("training, wall (s)", 0, lambda arm: arm.train_seconds),
    ("training, processor (s)", 0, lambda arm: arm.train_cpu_seconds),
)


def of_cost(arm: Arm, name: str, factor: float) -> float | None:
    """A quantity of an arm's cost in the table's unit; None if it was not measured."""
    value = getattr(arm.cost, name, None)
    return None if value is None else value * factor


def show(value: float | None, digits: int, *, sign: bool = False) -> str:
    """A number as the table prints it; a dash for none.

    >>> show(12.345, 1), show(None, 1), show(-0.04, 1, sign=True), show(3.0, 1, sign=True)
    ('12.3', '–', '0.0', '+3.0')
    """
    if value is None or math.isnan(value):
        return "–"
    rounded = round(value, digits) + 0.0  # -0.0 becomes 0.0
    return f"{rounded:+.{digits}f}" if sign and rounded else f"{rounded:.{digits}f}"


def join(words: Sequence[str]) -> str:
    """Words as a person lists them.

    >>> join(["a"]), join(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))


def escape(cell: str) -> str:
    r"""A cell that cannot end its column.

    >>> escape("a|b")
    'a\\|b'
    """
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
