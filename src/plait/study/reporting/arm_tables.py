"""Tables of what arms are, what they cost, and what papers report for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from plait.study.analysis import Analysis, Key
from plait.study.comparison import show
from plait.study.reporting import reading
from plait.study.reporting.layout import NOTHING, Cell, Column, Table, by_arm
from plait.study.reporting.numbers import quantity
from plait.study.results import ArmResult, StudyResults


@dataclass(frozen=True)
class CostColumn:
    """One of :class:`plait.study.cost.Cost`'s quantities in a table.

    Attributes:
        name: Its attribute.
        head: The column's head, with the unit.
        factor: From the attribute's unit to the table's.
        digits: Decimals.
    """

    name: str
    head: str
    factor: float
    digits: int

    def value(self, arm: ArmResult) -> float | None:
        """In the table's unit; None if it was not measured."""
        found = getattr(arm.cost, self.name, None)
        return None if found is None else float(found) * self.factor

    def measured(self, arms: Sequence[ArmResult]) -> bool:
        """Whether any arm has it."""
        return any(self.value(arm) is not None for arm in arms)

    def cell(self, arm: ArmResult, ratio: float | None = None) -> Cell:
        """Its cell, with the ratio to the single-task networks if that is given."""
        value = self.value(arm)
        text = show(value, self.digits)
        return Cell(text=text if ratio is None else f"{text} ({ratio:.2f}×)", value=value)


COSTS: tuple[CostColumn, ...] = (
    CostColumn("parameters", "parameters (M)", 1e-6, 2),
    CostColumn("active_parameters", "active parameters (M)", 1e-6, 2),
    CostColumn("macs", "multiply-accumulates (G)", 1e-9, 2),
    CostColumn("flops", "FLOPs (G)", 1e-9, 2),
    CostColumn("latency", "latency (ms)", 1e3, 1),
    CostColumn("memory", "memory (MB)", 1e-6, 1),
    CostColumn("energy", "energy (J)", 1.0, 2),
    CostColumn("step_seconds", "training step (ms)", 1e3, 0),
    CostColumn("step_memory", "memory of a step (MB)", 1e-6, 0),
    CostColumn("step_energy", "energy of a step (J)", 1.0, 2),
)


def costs(analysis: Analysis) -> Table | None:
    """What each arm costs, with its ratio to its single-task networks; None if nothing was measured."""
    arms = [arm for arm in analysis.results.arms if arm.cost is not None]
    known = [cost for cost in COSTS if cost.measured(arms)]
    if not known:
        return None
    cells = [[cost.cell(arm, reading.cost_ratio(analysis, arm, cost.name)) for arm in arms] for cost in known]
    columns = [Column(title=cost.head) for cost in known]
    notes = [
        "All arms were measured alike, on one image or one training step. An arm's networks add up; its "
        "memory is the most that is needed at a time. A ratio (×) is to its single-task networks together.",
        "One multiply-accumulate is two floating-point operations (FLOPs).",
        *latency_spread(arms),
    ]
    return by_arm("What each arm costs", arms, columns, cells, notes)


def latency_spread(arms: Sequence[ArmResult]) -> Iterator[str]:
    """How far measured latencies of equal networks are apart: what is less says nothing of arms."""
    groups: dict[str, list[float]] = {}
    for arm in arms:
        if arm.role == "arm" and arm.cost is not None and arm.cost.latency:
            parts = [reading.part(arm, axis) for axis in ("backbone", "encoder", "decoder")]
            groups.setdefault(repr((parts, sorted(arm.recipe.tasks))), []).append(arm.cost.latency)
    apart = max((max(group) / min(group) - 1 for group in groups.values() if len(group) > 1), default=0.0)
    if apart >= 0.005:
        yield (
            f"Arms that differ in the balancer alone predict with the same network, and their latencies were "
            f"measured up to {100 * apart:.0f} % apart: smaller differences in time say nothing."
        )


def arms(analysis: Analysis) -> Table:
    """What each arm is: its parts, seeds, steps and searched settings."""
    found = analysis.results.arms
    axes = ("backbone", "encoder", "decoder", "balancer")
    searched = any(arm.tuned for arm in found)
    heads = ["arm", *axes, "networks", "seeds", "steps", *["settings found by search"] * searched]
    rows = tuple(
        (
            Cell(text=arm.name),
            *(Cell(text=part_of(arm, axis)) for axis in axes),
            Cell(text=str(arm.networks), value=arm.networks),
            Cell(text=str(len(arm.seeds)), value=len(arm.seeds)),
            Cell(text=str(arm.steps) if arm.steps else NOTHING, value=arm.steps),
            *[Cell(text=settings_found(arm) or NOTHING)] * searched,
        )
        for arm in found
    )
    columns = tuple(Column(title=head, numeric=head in ("networks", "seeds", "steps")) for head in heads)
    return Table(title="What was compared", columns=columns, rows=rows, names=tuple(a.name for a in found))


def part_of(arm: ArmResult, axis: str) -> str:
    """An arm's part; networks of one task each have no balancer."""
    return NOTHING if axis == "balancer" and arm.role != "arm" else str(arm.axes.get(axis, NOTHING))


def settings_found(arm: ArmResult) -> str:
    """The settings that the search has chosen for an arm."""
    return "; ".join(
        f"{f'{task}: ' if task else ''}{key} {value:.3g}"
        if isinstance(value, float)
        else f"{f'{task}: ' if task else ''}{key} {value}"
        for task, chosen in arm.tuned.items()
        for key, value in chosen.items()
    )


def published(analysis: Analysis) -> Table | None:
    """What papers report for such networks; None if no recipe carries it."""
    results = analysis.results
    found = [(arm, arm.recipe.published) for arm in results.arms if arm.recipe.published is not None]
    if not found:
        return None
    keys = list(
        dict.fromkeys(
            (task, name) for _, said in found for task, scores in said.scores.items() for name in scores
        )
    )
    columns = [
        Column(title="arm", numeric=False),
        Column(title="source", numeric=False),
        *(Column(title=published_head(results, key)) for key in keys),
        Column(title="relative gain (%)"),
        Column(title="parameters (M)"),
        Column(title="operations (G)"),
        Column(title="remarks", numeric=False),
    ]
    rows = tuple(
        (
            Cell(text=arm.name),
            Cell(text=said.source),
            *(plain_number(said.scores.get(task, {}).get(name)) for task, name in keys),
            plain_number(said.relative_gain, sign=True),
            plain_number(said.parameters),
            plain_number(said.flops),
            Cell(text="; ".join(remarks) or NOTHING),
        )
        for arm, said in found
        for remarks in [
            [
                *["that paper took it from another"] * said.copied,
                *[f"uncertain: {said.uncertain}"] * bool(said.uncertain),
                *[said.note or ""] * bool(said.note),
            ]
        ]
    )
    notes = ("Numbers of papers, printed there and not run here: other training, often other scoring.",)
    return Table(
        title="What papers report", columns=tuple(columns), rows=rows,
        names=tuple(arm.name for arm, _ in found), notes=notes,
    )  # fmt: skip


def published_head(results: StudyResults, key: Key) -> str:
    """The head of a published measure, which need not be one that was scored here."""
    task, name = key
    known = {measure.name: measure for measure in results.measures.get(task, ())}
    if name not in known:
        return f"{name} of {task}"
    return f"{quantity(results, key).head} of {task}".replace(" ↑ of", " of").replace(" ↓ of", " of")


def plain_number(value: float | None, *, sign: bool = False) -> Cell:
    """A number as its paper prints it."""
    if value is None:
        return Cell(text=NOTHING)
    return Cell(text=f"{value:+g}" if sign else f"{value:g}", value=value)
