"""Tables of scores, an arm a row as in the survey: headline measures, all measures, differences, ranks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from plait.metrics import PROTOCOLS
from plait.study.analysis import Analysis, Key
from plait.study.comparison import join, show
from plait.study.reporting import reading
from plait.study.reporting.arm_tables import COSTS
from plait.study.reporting.layout import BETTER, NOTHING, WORSE, Cell, Column, Table, by_arm, number
from plait.study.reporting.numbers import GAIN, probability, quantity
from plait.study.results import ArmResult, StudyResults


def headline(analysis: Analysis) -> Table:
    """The survey's table: headline measures, mean relative gain, parameters and multiply-accumulates."""
    results = analysis.results
    arms = reading.scored(analysis)
    keys = [*reading.headlines(results), *[GAIN] * has(analysis, GAIN)]
    costs = [cost for cost in COSTS if cost.name in ("parameters", "macs") and cost.measured(arms)]
    cells = [
        *(estimate_cells(analysis, arms, key, intervals=False) for key in keys),
        *([cost.cell(arm) for arm in arms] for cost in costs),
    ]
    columns = [
        *(Column(title=quantity(results, key).head, group=group(results, key)) for key in keys),
        *(Column(title=cost.head) for cost in costs),
    ]
    notes = [*reading_scores(analysis, arms), *marks_explained(analysis), intervals_explained(analysis)]
    return by_arm("Scores of the headline measures", arms, columns, cells, [note for note in notes if note])


def measures(analysis: Analysis) -> list[Table]:
    """All measures of each task, then all relative gains, with their 95 % intervals in brackets."""
    results, arms = analysis.results, reading.scored(analysis)
    groups: list[tuple[str, list[Key]]] = [
        (f"All measures of {task}", [(task, measure.name) for measure in found])
        for task, found in results.measures.items()
    ]
    groups.append(("Relative gains", reading.gain_keys(results)))
    tables = []
    for title, keys in groups:
        known = [key for key in keys if has(analysis, key)]
        if known:
            columns = [Column(title=quantity(results, key).head) for key in known]
            cells = [estimate_cells(analysis, arms, key, intervals=True) for key in known]
            tables.append(by_arm(title, arms, columns, cells, []))
    return tables


def comparisons(analysis: Analysis, key: Key, *, shown: bool = False) -> Table:
    """Every pair of arms in one quantity; only the pairs that differ by the test if ``shown``."""
    of = quantity(analysis.results, key)
    pairs = analysis.comparisons.get(key, ())
    listed = [pair for pair in pairs if pair.better is not None or not shown]
    rows = tuple(
        (
            Cell(text=pair.first),
            Cell(text=pair.second),
            Cell(
                text=of.number(pair.difference, of.decimals(pair.low, pair.high), sign=True),
                value=number(of.factor * pair.difference),
            ),
            Cell(text=of.interval(pair.low, pair.high, sign=True) or NOTHING),
            Cell(text=probability(pair.p), value=number(pair.p)),
            Cell(text=probability(pair.adjusted), value=number(pair.adjusted)),
            Cell(text=pair.better or ("not shown" if reading.tested(pair) else "not tested")),
        )
        for pair in listed
    )
    unit = f" ({of.apart})" if of.unit else ""
    columns = (
        Column(title="first", numeric=False),
        Column(title="second", numeric=False),
        Column(title=f"first − second{unit}"),
        Column(title="95 % interval"),
        Column(title="p"),
        Column(title="adjusted p"),
        Column(title="better", numeric=False),
    )
    held = sum(map(reading.tested, pairs))
    direction = "higher" if of.higher_is_better else "lower"
    notes = (f"{direction.capitalize()} is better. Adjusted: for {reading.count(held, 'comparison')}.",)
    return Table(title=f"Differences in {of.words}", columns=columns, rows=rows, notes=notes)


def ranks(analysis: Analysis) -> Table | None:
    """Mean ranks over tasks; None without."""
    found = analysis.ranks
    if found is None:
        return None
    ordered = sorted(found.mean, key=lambda arm: found.mean[arm])
    rows = tuple(
        (Cell(text=arm), Cell(text=show(found.mean[arm], 2), value=number(found.mean[arm])))
        for arm in ordered
    )
    notes = [f"1 is best; mean over {reading.count(found.blocks, 'ranking')}, one a task."]
    if math.isfinite(found.critical_difference):
        notes.append(
            f"Two arms whose ranks differ by less than {show(found.critical_difference, 2)} are not told "
            f"apart (Nemenyi, 5 %)."
        )
    if math.isfinite(found.p):
        notes.append(f"Friedman's test of all arms being equal: p {equals(probability(found.p))}.")
    if any(len(clique) == len(ordered) for clique in found.cliques):
        notes.append("No two arms are told apart by their ranks.")
    else:
        notes += [f"Not told apart: {join(list(clique))}." for clique in found.cliques]
    columns = (Column(title="arm", numeric=False), Column(title="mean rank ↓"))
    return Table(
        title="Mean ranks", columns=columns, rows=rows, names=tuple(ordered), notes=tuple(notes)
    )  # fmt: skip


def estimate_cells(analysis: Analysis, arms: Sequence[ArmResult], key: Key, *, intervals: bool) -> list[Cell]:
    """A column of estimates, all with as many decimals as their differences justify.

    Images count less in a difference than in an arm's own interval, as both arms saw the same ones: digits
    that an interval alone would not justify may tell two arms apart.
    """
    of = quantity(analysis.results, key)
    found = [analysis.estimates[arm.name].get(key) for arm in arms]
    pairs = [pair for pair in analysis.comparisons.get(key, ()) if reading.tested(pair)]
    known = [of.decimals(pair.low, pair.high) for pair in pairs]
    digits = max(of.usual, statistics.median_low(known) if known else 0)
    cells = []
    for arm, one in zip(arms, found, strict=True):
        if one is None or math.isnan(one.mean):
            cells.append(Cell(text=NOTHING))
            continue
        own = of.gain and arm.role == "single-task"
        text = "0" if own else of.spread(one, digits)
        interval = "" if own else of.interval(one.low, one.high, digits=digits)
        cells.append(
            Cell(
                text=f"{text} ({interval})" if intervals and interval else text,
                bold=analysis.best.get(key) == arm.name,
                mark=mark(analysis, arm, key),
                value=of.factor * one.mean,
                interval=interval,
            )
        )
    return cells


def mark(analysis: Analysis, arm: ArmResult, key: Key) -> str:
    """Whether an arm was shown to be better or worse than its single-task networks."""
    found = reading.against_reference(analysis, arm, key)
    if found is None or found.better is None:
        return ""
    return BETTER if found.better == arm.name else WORSE


def has(analysis: Analysis, key: Key) -> bool:
    """Whether any arm has a number for a key."""
    return any(key in keys for keys in analysis.estimates.values())


def group(results: StudyResults, key: Key) -> str:
    """What stands above a column of a key: its task."""
    return "" if quantity(results, key).gain else key[0]


def equals(p: str) -> str:
    """``= 0.03`` or ``< 0.001``."""
    return p if p.startswith("<") else f"= {p}"


def reading_scores(analysis: Analysis, arms: Sequence[ArmResult]) -> Iterator[str]:
    """What the numbers are of."""
    results = analysis.results
    seeds, pictures = reading.seeds_in_words(arms) if arms else "no seed", reading.images(results)
    over = "one run, without a spread" if seeds == "1 seed" else "mean ± standard deviation over seeds"
    place = f"{reading.count(pictures, 'image')} of {join(reading.data_sets(results))}" if pictures else ""
    part = f", split {reading.split(results)}" if reading.split(results) else ""
    yield f"{seeds[0].upper()}{seeds[1:]} ({over}); {place}{part}, pooled over the split." if place else seeds
    protocol = PROTOCOLS.get(results.protocol)
    yield f"Protocol {results.protocol}{f': {protocol.whose}' if protocol else ''}."
    if has(analysis, GAIN):
        entering = "the headline measures" if results.variant == "survey" else "all measures of each task"
        yield f"The relative gain is over single-task networks, from {entering} (variant {results.variant})."


def marks_explained(analysis: Analysis) -> Iterator[str]:
    """What bold and the marks mean, where there can be any."""
    if not any(reading.tested(pair) for pairs in analysis.comparisons.values() for pair in pairs):
        yield "No difference was tested: nothing is bold, and nothing is marked."
        return
    yield "Bold: better than every other arm (paired tests, corrected for their number, p < 0.05)."
    if any(reading.reference(analysis.results, arm) for arm in analysis.results.arms):
        yield f"{BETTER} shown to be better, {WORSE} worse than its single-task networks, by the same tests."


def intervals_explained(analysis: Analysis) -> str:
    """What the 95 % intervals are over."""
    kinds = {
        (found.over_images, found.over_seeds)
        for keys in analysis.estimates.values()
        for key, found in keys.items()
        if math.isfinite(found.low) and key[0] in analysis.results.tasks
    }
    said: Mapping[tuple[bool, bool], str] = {
        (True, True): "test images and seeds",
        (True, False): "test images alone, not seeds",
        (False, True): "seeds alone, not test images",
    }
    over = [said[kind] for kind in said if kind in kinds]
    if not over:
        return ""
    tests = any(reading.tested(pair) for pairs in analysis.comparisons.values() for pair in pairs)
    whose = (
        " An arm's own interval is from its own seeds; tests, and what is said of gains in words, have the "
        "interval of the difference, from how the seeds of all arms vary."
    )
    return f"95 % intervals are over {', for some over '.join(over)}.{whose * tests}"
