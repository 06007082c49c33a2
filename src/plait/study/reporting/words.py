"""A study's result in plain words: what was shown, what was not, what it costs, and never more than that.

"Shown" has one meaning here: an adjusted p-value below 0.05, which is what ``Comparison.better`` says. What
was not shown may be there all the same, and no sentence calls it absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from plait.study.analysis import Analysis, Comparison, Key
from plait.study.comparison import join
from plait.study.reporting import reading
from plait.study.reporting.numbers import GAIN, quantity
from plait.study.results import ArmResult

AS_MUCH = 0.95
"""From which part of the single-task networks' operations an arm is said to need as many."""

FEW = 3
"""Up to how many arms a sentence gives a number for each."""

Pairs = Sequence[tuple[ArmResult, Comparison]]
"""Arms with what came of holding each against its single-task networks (arm minus those)."""


def summary(analyses: Sequence[Analysis]) -> list[str]:
    """What the numbers say, a sentence or two an entry; of several studies, each with its study's title."""
    several = len(analyses) > 1
    return [
        reading.titled(analysis.results.title, text) if several else text
        for analysis in analyses
        for text in sentences(analysis)
    ]


def compared(analysis: Analysis) -> str:
    """One line that says what was compared on what."""
    results = analysis.results
    arms = [arm for arm in results.arms if arm.role == "arm"]
    singles = [arm for arm in results.arms if arm.role != "arm"]
    parts = [reading.count(len(arms), "arm"), *["single-task networks"] * bool(singles)]
    pictures = reading.images(results)
    scored = (
        f", scored on {reading.count(pictures, 'image')} of split {reading.split(results)}"
        if pictures
        else ""
    )
    return (
        f"{join(parts)} on {join(reading.data_sets(results))} ({join(list(results.tasks))}), each trained "
        f"with {reading.count(len(results.study.seeds), 'seed')}{scored} by the protocol {results.protocol}"
    )


def sentences(analysis: Analysis) -> Iterator[str]:
    """The summary of one study."""
    arms = [arm for arm in reading.scored(analysis) if arm.role == "arm"]
    if not arms:
        yield "No arm has finished: nothing can be said yet."
    elif not any(reading.tested(pair) for pairs in analysis.comparisons.values() for pair in pairs):
        yield from untested(analysis, arms)
    elif any(reading.reference(analysis.results, arm) for arm in arms):
        yield from against_single_task(analysis, arms)
        yield from overall(analysis, GAIN)
        yield from by_task(analysis, arms)
        yield from at_equal_cost(analysis, arms)
    else:
        yield (
            "This study has no single-task networks, so no relative gain: arms are only held against each "
            "other."
        )
        for key in reading.headlines(analysis.results):
            yield from overall(analysis, key)
    yield from unfinished(analysis)


def untested(analysis: Analysis, arms: Sequence[ArmResult]) -> Iterator[str]:
    """What can be said of one seed."""
    seeds = sorted({result.seed for arm in arms for result in arm.seeds})
    if len(seeds) == 1:
        yield (
            f"One seed ({seeds[0]}): how much scores change from one training to the next was not measured, "
            f"so nothing can be said about chance, and no difference here is shown to be more than that."
        )
    else:
        yield "No two arms have two seeds in common: no difference here could be tested."
    gains = [(arm.name, analysis.estimates[arm.name].get(GAIN)) for arm in arms]
    of = quantity(analysis.results, GAIN)
    said = [f"{name} {of.number(found.mean, 1)} %" for name, found in gains if found is not None]
    if said:
        yield f"Mean relative gains as observed, which other seeds may order otherwise: {', '.join(said)}."
    costs = [
        f"{arm.name} {ratio:.2f} times"
        for arm in arms
        if (ratio := reading.cost_ratio(analysis, arm)) is not None
    ]
    if costs:
        yield f"Multiply-accumulates beside the single-task networks together: {', '.join(costs)}."


def against_single_task(analysis: Analysis, arms: Sequence[ArmResult]) -> Iterator[str]:
    """Which arms were shown to be better or worse than their single-task networks, and at what cost."""
    found = [(arm, reading.against_reference(analysis, arm, GAIN)) for arm in arms]
    held = [(arm, pair) for arm, pair in found if pair is not None and reading.tested(pair)]
    better = [(arm, pair) for arm, pair in held if pair.better == arm.name]
    worse = [(arm, pair) for arm, pair in held if pair.better not in (arm.name, None)]
    level = [(arm, pair) for arm, pair in held if pair.better is None]
    untestable = [arm.name for arm in arms if arm not in [other for other, _ in held]]
    seeds = reading.seeds_in_words(arms)
    if better:
        yield from shown(analysis, better, "better", f"With {seeds}, ", alone=len(held) > 1)
    if worse:
        yield from shown(analysis, worse, "worse", "" if better else f"With {seeds}, ", alone=False)
    if level:
        yield from not_told_apart(analysis, level, everybody=len(level) == len(held), seeds=seeds)
        yield from uncorrected(analysis, level)
        yield from what_it_costs(analysis, level)
    if untestable:
        yield f"In mean relative gain, {join(untestable)} could not be tested against single-task networks."


def shown(analysis: Analysis, pairs: Pairs, word: str, begins: str, *, alone: bool) -> Iterator[str]:
    """The arms that were shown to be better, or worse, than their single-task networks."""
    of = quantity(analysis.results, GAIN)
    if len(pairs) == 1:
        arm, pair = pairs[0]
        only = "the only arm shown" if alone else "shown"
        names = {"macs": "multiply-accumulates", "parameters": "parameters"}
        ratios = {name: reading.cost_ratio(analysis, arm, cost) for cost, name in names.items()}
        costs = join(
            [f"{ratio:.2f} times their {name}" for name, ratio in ratios.items() if ratio is not None]
        )
        yield (
            f"{begins}{arm.name} is {only} to be {word} than its single-task networks: a mean relative gain "
            f"of {of.gained(pair)}{f', for {costs}' if costs else ''}."
        )
        return
    beside = [reading.cost_ratio(analysis, arm) for arm, _ in pairs]
    alike = same(beside)
    listed = []
    for (arm, pair), ratio in zip(pairs, beside, strict=True):
        said = f"{arm.name} {of.gained(pair)}".replace("(95 % interval ", "(")
        cost = f"; {ratio:.2f} times)" if ratio is not None and not alike else ")"
        listed.append(f"{said.removesuffix(')')}{cost}" if said.endswith(")") else said)
    costs = (
        ""
        if alike or all(ratio is None for ratio in beside)
        else " and multiply-accumulates beside those networks'"
    )
    yield (
        f"{begins}{len(pairs)} arms are shown to be {word} than their single-task networks"
        f"{f', each for {alike} times their multiply-accumulates' if alike else ''}. Their mean "
        f"relative gains, with 95 % interval{costs}: {', '.join(listed)}."
    )


def same(ratios: Sequence[float | None]) -> str:
    """What all ratios are, as it is printed; empty where they differ or one is not known."""
    printed = {"" if ratio is None else f"{ratio:.2f}" for ratio in ratios}
    return printed.pop() if len(printed) == 1 else ""


def not_told_apart(analysis: Analysis, pairs: Pairs, *, everybody: bool, seeds: str) -> Iterator[str]:
    """The arms of which neither was shown, and how small a difference could not have been seen."""
    names = [arm.name for arm, _ in pairs]
    if everybody and len(names) > 1:
        text = "No arm was shown to be better or worse than its single-task networks in mean relative gain"
    else:
        was, whose = ("was", "its") if len(names) == 1 else ("were", "their")
        text = (
            f"{join(names)} {was} not shown to be better or worse than {whose} single-task networks in mean "
            f"relative gain"
        )
    pictures = reading.images(analysis.results)
    data = f"{seeds} and {reading.count(pictures, 'image')}" if pictures else seeds
    smallest = reading.power([pair for _, pair in pairs], quantity(analysis.results, GAIN))
    yield (
        f"{text}. With {data}, differences in it below {smallest} cannot be seen." if smallest else f"{text}."
    )


def uncorrected(analysis: Analysis, pairs: Pairs) -> Iterator[str]:
    """Says of intervals that leave out 0 why that does not count."""
    names = [arm.name for arm, pair in pairs if pair.low > 0 or pair.high < 0]
    if names:
        number = sum(map(reading.tested, analysis.comparisons[GAIN]))
        word = "interval leaves" if len(names) == 1 else "intervals leave"
        yield (
            f"The {word} out 0 for {join(names)}, but an interval is not corrected for the {number} "
            f"comparisons that were made; the test is, and does not show a difference."
        )


def what_it_costs(analysis: Analysis, pairs: Pairs) -> Iterator[str]:
    """What arms cost that were not shown to be better or worse."""
    ratios = [(arm, pair, reading.cost_ratio(analysis, arm)) for arm, pair in pairs]
    dear = [(arm, ratio) for arm, _, ratio in ratios if ratio is not None and ratio >= AS_MUCH]
    cheap = [(arm, pair, ratio) for arm, pair, ratio in ratios if ratio is not None and ratio < AS_MUCH]
    if dear:
        alike = same([ratio for _, ratio in dear]) if len(dear) > 1 else ""
        named = join([arm.name if alike else f"{arm.name} ({ratio:.2f} times)" for arm, ratio in dear])
        named += f" ({alike} times)" * bool(alike)
        verb, was = ("needs", "was") if len(dear) == 1 else ("need", "were")
        more = "" if all(ratio <= 2 - AS_MUCH for _, ratio in dear) else ", or more,"
        yield (
            f"{named} {verb} as many multiply-accumulates{more} as single-task networks and {was} not shown "
            f"to be better."
        )
    of = quantity(analysis.results, GAIN)
    known = [(arm, pair, ratio) for arm, pair, ratio in cheap if of.interval(pair.low, pair.high)]
    if not known:
        return
    if len(known) > FEW:
        # Their names were said just before, and each interval is in the list of pairs.
        times = sorted(ratio for _, _, ratio in known)
        cost = same(times) or f"{times[0]:.2f} to {times[-1]:.2f}"
        who = (
            f"All {len(known)} that were not told apart"
            if len(known) == len(pairs)
            else join([arm.name for arm, _, _ in known])
        )
        arm, lowest, _ = min(known, key=lambda one: one[1].low)
        low = of.number(lowest.low, of.decimals(lowest.low, lowest.high))
        yield (
            f"{who} need {cost} times the multiply-accumulates of single-task "
            f"networks. That does not show that they are as good for it: the 95 % intervals of their mean "
            f"relative gains reach down to {low} % ({arm.name})."
        )
        return
    listed = [
        f"{arm.name} ({ratio:.2f} times; {of.interval(pair.low, pair.high)} %)" for arm, pair, ratio in known
    ]
    it, was, verb = ("it is", "was", "needs") if len(listed) == 1 else ("they are", "were", "need")
    yield (
        f"{join(listed)} {verb} fewer multiply-accumulates than single-task networks and {was} not shown "
        f"to be worse. That does not show that {it} as good: in brackets, with the cost, stands the 95 % "
        f"interval of the mean relative gain."
    )


def overall(analysis: Analysis, key: Key) -> Iterator[str]:
    """How many of all pairs were told apart, and whether one arm is better than all others."""
    pairs = [pair for pair in analysis.comparisons.get(key, ()) if reading.tested(pair)]
    if not pairs or (key == GAIN and len(pairs) == 1):
        return
    told = sum(pair.better is not None for pair in pairs)
    words, best = quantity(analysis.results, key).words, analysis.best.get(key)
    if not told:
        yield f"In {words}, no two arms were told apart by the test."
    elif len(pairs) == 1:
        (pair,) = pairs
        other = pair.second if pair.better == pair.first else pair.first
        yield f"In {words}, {pair.better} is shown to be better than {other}."
    else:
        which = f"all {told} pairs" if told == len(pairs) else f"{told} of all {len(pairs)} pairs"
        first = f"{best} is" if best is not None else "none is"
        yield f"In {words}, {which} differ by the test; {first} shown to be better than every other."


def by_task(analysis: Analysis, arms: Sequence[ArmResult]) -> Iterator[str]:
    """For each task, which arms were shown to be better or worse than their single-task networks."""
    silent = []
    for key in reading.headlines(analysis.results):
        of = quantity(analysis.results, key)
        found = [(arm, reading.against_reference(analysis, arm, key)) for arm in arms]
        held = [(arm, pair) for arm, pair in found if pair is not None and reading.tested(pair)]
        parts = []
        for word, is_so in (("better", is_better), ("worse", is_worse)):
            these = [(arm, pair) for arm, pair in held if is_so(arm, pair)]
            if these:
                named = [
                    f"{arm.name} ({of.difference(pair)})" if len(these) <= FEW else arm.name
                    for arm, pair in these
                ]
                parts.append(f"{join(named)} {'is' if len(these) == 1 else 'are'} shown to be {word}")
        if parts:
            yield f"In {of.words}, {' and '.join(parts)} than single-task networks."
        elif held:
            silent.append(of.words)
    if silent:
        yield f"In {join(silent)}, no arm was told apart from its single-task networks."


def is_better(arm: ArmResult, pair: Comparison) -> bool:
    """Whether the arm was shown to be the better one."""
    return pair.better == arm.name


def is_worse(arm: ArmResult, pair: Comparison) -> bool:
    """Whether the other one was."""
    return pair.better not in (arm.name, None)


def at_equal_cost(analysis: Analysis, arms: Sequence[ArmResult]) -> Iterator[str]:
    """Arms beside single-task networks that were made as costly."""
    of = quantity(analysis.results, GAIN)
    sides: tuple[tuple[str, Callable[[ArmResult, Comparison], bool]], ...] = (
        ("is shown to be better than", is_better),
        ("is shown to be worse than", is_worse),
    )
    level = []
    for arm in arms:
        if arm.larger is None:
            continue
        pair = analysis.compared(GAIN, arm.name, arm.larger)
        if pair is None or not reading.tested(pair):
            continue
        ratio = reading.ratio(arm, analysis.results.arm(arm.larger))
        cost = f", for {ratio:.2f} times their multiply-accumulates" if ratio is not None else ""
        said = [words for words, is_so in sides if is_so(arm, pair)]
        if said:
            yield (
                f"In {of.words}, {arm.name} {said[0]} the larger single-task networks made for it{cost}: "
                f"{of.difference(pair)}."
            )
        else:
            level.append(arm.name)
    if level:
        was = "was" if len(level) == 1 else "were"
        yield f"{join(level)} {was} not told apart from the larger single-task networks made as costly."


def unfinished(analysis: Analysis) -> Iterator[str]:
    """Failed and missing runs: a sentence for all arms of which the same is to be said."""
    failed: dict[tuple[int, str, int], list[str]] = {}
    missing: dict[tuple[tuple[int, ...], int], list[str]] = {}
    for arm in analysis.results.arms:
        for seed, error in arm.failed.items():
            first = error.strip().splitlines()[0] if error.strip() else "no error was recorded"
            failed.setdefault((seed, first.rstrip("."), len(arm.seeds)), []).append(arm.name)
        left = tuple(seed for seed in arm.missing if seed not in arm.failed)
        if left:
            missing.setdefault((left, len(arm.seeds)), []).append(arm.name)
    for (seed, first, have), names in failed.items():
        yield f"{join(names)} failed with seed {seed} ({first}); {reported(names, have)}."
    for (left, have), names in missing.items():
        has, word = ("has" if len(names) == 1 else "have"), ("seed" if len(left) == 1 else "seeds")
        seeds = join([str(seed) for seed in left])
        yield f"{join(names)} {has} not finished {word} {seeds}; {reported(names, have)}."


def reported(names: Sequence[str], seeds: int) -> str:
    """From how many seeds arms are reported."""
    verb = "it is" if len(names) == 1 else "they are"
    return f"{verb} reported from {reading.count(seeds, 'seed')}" if seeds else f"{verb} not reported"
