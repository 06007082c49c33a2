"""All numbers of a study, one a row: for CSV and Parquet, and anybody's plots."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from plait.study.analysis import Analysis, Key
from plait.study.reporting import reading
from plait.study.reporting.numbers import quantity

if TYPE_CHECKING:
    import pyarrow as pa

    from plait.study.results import ArmResult

COST_UNITS = {
    "parameters": "",
    "active_parameters": "",
    "flops": "",
    "macs": "",
    "latency": "s",
    "memory": "bytes",
    "energy": "J",
    "step_seconds": "s",
    "step_memory": "bytes",
    "step_energy": "J",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A number of one arm.

    Attributes:
        study: The study's name.
        arm: Its arm.
        role: ``arm``, ``single-task`` or ``larger single-task``.
        backbone: Its backbone in words; likewise encoder, decoder and balancer.
        encoder: See there.
        decoder: See there.
        balancer: See there.
        kind: ``score``, ``gain`` or ``cost``.
        task: The task; ``mean`` for the mean relative gain, empty for a cost.
        measure: The measure's name, ``relative_gain``, or the cost's name.
        protocol: By whose rules a score is taken.
        unit: Of the numbers: ``%`` (not a share), ``m``, ``°``, ``s``, ``bytes``, ``J`` or empty.
        better: ``higher`` or ``lower``.
        mean: The number, a mean over seeds.
        spread: Standard deviation over seeds; None for one.
        low: Lower end of the 95 % interval; None without one.
        high: Upper end.
        seeds: Over how many seeds; None for a cost.
        over_images: Whether images are part of the interval.
        over_seeds: Whether seeds are.
        best: Whether it was shown to be better than every other arm.
    """

    study: str
    arm: str
    role: str
    backbone: str
    encoder: str
    decoder: str
    balancer: str
    kind: str
    task: str
    measure: str
    protocol: str
    unit: str
    better: str
    mean: float | None
    spread: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int | None = None
    over_images: bool | None = None
    over_seeds: bool | None = None
    best: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedRow(Row):
    """The same with the seed: of one seed, or None for the row of all.

    Attributes:
        seed: The training seed.
    """

    seed: int | None = None


def csv_text(analysis: Analysis) -> str:
    """A line a number, with a head; an empty cell where there is none."""
    file = io.StringIO()
    names = [field.name for field in dataclasses.fields(Row)]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for row in rows(analysis):
        values = (getattr(row, name) for name in names)
        writer.writerow(["" if value is None else written(value) for value in values])
    return file.getvalue()


def written(value: Any) -> str:
    """A value so that reading it gives it back: all digits of a number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def comparisons_csv(analysis: Analysis) -> str:
    """Every pair of arms in every quantity that was tested, a line each; in the quantity's unit."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = [
        "study",
        "task",
        "measure",
        "unit",
        "first",
        "second",
        "difference",
        "low",
        "high",
        "p",
        "adjusted",
    ]
    writer.writerow([*heads, "better"])
    for key, pairs in analysis.comparisons.items():
        of = quantity(analysis.results, key)
        about = [analysis.results.study.name, of.task, measure_name(key, gain=of.gain), of.apart]
        for pair in pairs:
            scaled = [of.factor * value for value in (pair.difference, pair.low, pair.high)]
            numbers = [finite(value) for value in (*scaled, pair.p, pair.adjusted)]
            writer.writerow(
                [
                    *about,
                    pair.first,
                    pair.second,
                    *("" if n is None else repr(n) for n in numbers),
                    pair.better or "",
                ]
            )
    return file.getvalue()


def parquet_bytes(analysis: Analysis) -> bytes:
    """A Parquet file of the same rows, with a ``seed`` column: null in them, and a row more for each seed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    every = [*(SeedRow(**dataclasses.asdict(row)) for row in rows(analysis)), *seed_rows(analysis)]
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in every], schema=schema())
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def schema() -> pa.Schema:
    """The columns of the Parquet file."""
    import pyarrow as pa

    types = {
        "str": pa.string(),
        "float | None": pa.float64(),
        "int | None": pa.int64(),
        "bool | None": pa.bool_(),
        "bool": pa.bool_(),
    }
    return pa.schema([(field.name, types[str(field.type)]) for field in dataclasses.fields(SeedRow)])


def rows(analysis: Analysis) -> Iterator[Row]:
    """Scores, relative gains, then costs, arm by arm."""
    for arm in analysis.results.arms:
        found = analysis.estimates.get(arm.name, {})
        for key in every_key(analysis):
            if key in found:
                one, factor = found[key], quantity(analysis.results, key).factor
                yield Row(
                    **about(analysis, arm, key),
                    mean=finite(factor * one.mean),
                    spread=finite(factor * one.spread),
                    low=finite(factor * one.low),
                    high=finite(factor * one.high),
                    seeds=len(one.by_seed),
                    over_images=one.over_images,
                    over_seeds=one.over_seeds,
                    best=analysis.best.get(key) == arm.name,
                )
        for name, unit in COST_UNITS.items():
            value = getattr(arm.cost, name, None)
            if value is not None:
                yield Row(
                    **named(analysis, arm),
                    kind="cost", task="", measure=name, protocol="", unit=unit, better="lower",
                    mean=finite(float(value)),
                )  # fmt: skip


def seed_rows(analysis: Analysis) -> Iterator[SeedRow]:
    """Scores and relative gains of single seeds."""
    for arm in analysis.results.arms:
        for key, one in analysis.estimates.get(arm.name, {}).items():
            factor = quantity(analysis.results, key).factor
            for seed, value in one.by_seed.items():
                yield SeedRow(**about(analysis, arm, key), mean=finite(factor * value), seeds=1, seed=seed)


def every_key(analysis: Analysis) -> list[Key]:
    """All measures of all tasks, then all relative gains."""
    measures = [(task, m.name) for task, found in analysis.results.measures.items() for m in found]
    return [*measures, *reading.gain_keys(analysis.results)]


def named(analysis: Analysis, arm: ArmResult) -> dict[str, Any]:
    """The columns that say which arm it is."""
    axes = {axis: arm.axes.get(axis, "") for axis in ("backbone", "encoder", "decoder", "balancer")}
    return {"study": analysis.results.study.name, "arm": arm.name, "role": arm.role, **axes}


def about(analysis: Analysis, arm: ArmResult, key: Key) -> dict[str, Any]:
    """The columns that say what is measured on which arm."""
    of = quantity(analysis.results, key)
    return {
        **named(analysis, arm),
        "kind": "gain" if of.gain else "score",
        "task": of.task,
        "measure": measure_name(key, gain=of.gain),
        "protocol": of.protocol,
        "unit": of.unit,
        "better": "higher" if of.higher_is_better else "lower",
    }


def measure_name(key: Key, *, gain: bool) -> str:
    """The measure's name, or ``relative_gain``."""
    return "relative_gain" if gain else key[1]


def finite(value: float) -> float | None:
    """The number, or None for what is none."""
    return value if math.isfinite(value) else None
