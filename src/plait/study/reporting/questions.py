"""The four questions of the survey, answered from one study's tests, or from several studies'.

Source:
    Vandenhende et al., Multi-Task Learning for Dense Prediction Tasks: A Survey, TPAMI 2021: where to share,
    encoder against decoder, how to balance, and what of it holds across data sets.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from plait.study.analysis import Analysis
from plait.study.comparison import join
from plait.study.reporting import reading
from plait.study.reporting.across import across
from plait.study.reporting.evidence import CANNOT, Answer, Evidence, evidence, pairs_in_words
from plait.study.results import ArmResult

EQUAL_COST = 1.25
"""How many times another's multiply-accumulates an arm may need and still count as equally costly."""

AXES = ("backbone", "encoder", "decoder", "balancer")

BASELINES = ("equal", "fixed")
"""Balancers that others are held against."""

WHERE = "Where should tasks share features in the encoder?"
FOCUS = "At equal cost, should tasks interact in the encoder or in the decoder?"
BALANCE = "How should the losses be balanced?"
HOLDS = "What holds across data sets?"


def answers(analyses: Sequence[Analysis]) -> tuple[Answer, ...]:
    """The four questions, in the survey's order."""
    asked: tuple[tuple[str, Callable[[Analysis], Answer]], ...] = (
        (WHERE, where),
        (FOCUS, encoder_or_decoder),
        (BALANCE, balance),
    )
    first = tuple(together(question, analyses, ask) for question, ask in asked)
    return (*first, across(HOLDS, analyses))


def together(
    question: str, analyses: Sequence[Analysis], ask: Callable[[Analysis], Answer]
) -> Answer:  # fmt: skip
    """The answers of several studies as one, each with its study's title."""
    found = [ask(analysis) for analysis in analyses]
    if len(found) == 1:
        return found[0]
    answered = any(answer.answered for answer in found)
    every = tuple(one for answer in found for one in answer.evidence)
    lacks = {answer.text.removeprefix(f"{CANNOT}: it has ") for answer in found}
    if not answered and len(lacks) == 1 and found[0].text.startswith(f"{CANNOT}: it has "):
        text = f"None of these studies can answer it: each has {lacks.pop()}"
    else:
        text = " ".join(
            reading.titled(analysis.results.title, answer.text)
            for analysis, answer in zip(analyses, found, strict=True)
        )
    return Answer(question=question, text=text, answered=answered, evidence=every)


def where(analysis: Analysis) -> Answer:
    """Arms that differ in the encoder, with the same backbone, decoder and balancer."""
    found, texts = [], []
    for group in alike(analysis, but="encoder"):
        pairs = list(evidence(analysis, itertools.combinations(group, 2)))
        if pairs:
            decoder, balancer = (group[0].axes.get(axis, "") for axis in ("decoder", "balancer"))
            texts.append(
                f"With the decoder {decoder} and the balancer {balancer}, {encoders_of(group)} were "
                f"compared. {pairs_in_words(pairs)}{also_differs(group)}"
            )
            found += pairs
    return answer(WHERE, analysis, texts, found, "no two encoders with the same decoder and balancer")


def encoders_of(arms: Sequence[ArmResult]) -> str:
    """The encoders of arms, or the arms where two have the same one with other options."""
    names = [arm.axes.get("encoder", "") for arm in arms]
    if len(set(names)) == len(names):
        return f"the encoders {join(names)}"
    return join([f"{arm.name} ({name})" for arm, name in zip(arms, names, strict=True)])


def balance(analysis: Analysis) -> Answer:
    """Arms that differ in the balancer alone, against equal or fixed weights where there are any."""
    found, texts = [], []
    for group in alike(analysis, but="balancer", strictly=True):
        plain = [arm for arm in group if arm.axes.get("balancer") in BASELINES]
        rest = [arm for arm in group if arm not in plain]
        held = [(arm, base) for arm in rest for base in plain]
        pairs = list(evidence(analysis, held if held else itertools.combinations(group, 2)))
        if pairs:
            encoder, decoder = (group[0].axes.get(axis, "") for axis in ("encoder", "decoder"))
            names = join([arm.name for arm in (rest if held else group)])
            against = f" held against {join([arm.name for arm in plain])}" if held else " compared"
            was = "was" if held and len(rest) == 1 else "were"
            texts.append(
                f"With the encoder {encoder} and the decoder {decoder}, {names} {was}{against}. "
                f"{pairs_in_words(pairs)}"
            )
            found += pairs
    return answer(BALANCE, analysis, texts, found, "no two arms that differ in the balancer alone")


def encoder_or_decoder(analysis: Analysis) -> Answer:
    """Encoder-focused beside decoder-focused arms of about the same cost, and single-task networks of it."""
    arms = [arm for arm in reading.scored(analysis) if arm.role == "arm"]
    sides = {side: [arm for arm in arms if reading.focus(arm) == side] for side in ("encoder", "decoder")}
    comparable = [pair for pair in itertools.product(sides["encoder"], sides["decoder"]) if matched(*pair)]
    near = [pair for pair in comparable if within(*pair)]
    found, texts = [], []
    pairs = list(evidence(analysis, near))
    if pairs:
        texts.append(
            f"Of arms that interact in the encoder and arms that do in the decoder, "
            f"{reading.count(len(near), 'pair needs', 'pairs need')} about the same multiply-accumulates "
            f"(within 25 %). "
            f"{pairs_in_words(pairs)}{also_differs([arm for pair in near for arm in pair])}"
        )
        found += pairs
    elif comparable:
        texts.append(nearest(comparable))
    singles = list(
        evidence(analysis, single_task_of_equal_cost(analysis, [*sides["encoder"], *sides["decoder"]]))
    )
    if singles and comparable:
        texts.append(f"Beside single-task networks of about the same cost: {pairs_in_words(singles)}")
        found += singles
    lacks = (
        f"no arm that interacts in the {'encoder' if not sides['encoder'] else 'decoder'} alone"
        if not all(sides.values())
        else "no arms of both kinds with the same backbone and balancer"
    )
    return answer(FOCUS, analysis, texts, found, lacks)


def alike(analysis: Analysis, *, but: str, strictly: bool = False) -> Iterator[list[ArmResult]]:
    """Groups of arms that are the same but for one axis, in which a group has two parts or more.

    Args:
        analysis: A study.
        but: The axis.
        strictly: Whether their other settings must be the same too.
    """
    groups: dict[str, list[ArmResult]] = {}
    for arm in reading.scored(analysis):
        if arm.role == "arm":
            same = [reading.part(arm, axis) for axis in AXES if axis != but]
            more = sorted(reading.settings(arm).items()) if strictly else []
            groups.setdefault(repr((same, more)), []).append(arm)
    for group in groups.values():
        if len({repr(reading.part(arm, but)) for arm in group}) > 1:
            yield group


def matched(first: ArmResult, second: ArmResult) -> bool:
    """Whether two arms have the same backbone and balancer."""
    return all(reading.part(first, axis) == reading.part(second, axis) for axis in ("backbone", "balancer"))


def apart(first: ArmResult, second: ArmResult) -> float | None:
    """How many times the cheaper arm's multiply-accumulates the costlier one needs; None if not measured."""
    ratio = reading.ratio(first, second)
    return None if not ratio else max(ratio, 1 / ratio)


def within(first: ArmResult, second: ArmResult) -> bool:
    """Whether two arms are about equally costly."""
    found = apart(first, second)
    return found is not None and found <= EQUAL_COST


def nearest(pairs: Sequence[tuple[ArmResult, ArmResult]]) -> str:
    """Says that no pair is of about equal cost, and which is nearest to it."""
    known = [(ratio, first, second) for first, second in pairs if (ratio := apart(first, second)) is not None]
    if not known:
        return "Their multiply-accumulates were not measured, so arms of equal cost are not known."
    ratio, first, second = min(known, key=lambda one: one[0])
    return (
        f"This study has no two such arms within 25 % of each other's multiply-accumulates: the nearest are "
        f"{first.name} and {second.name}, {ratio:.2f} times apart, which is no comparison at equal cost."
    )


def single_task_of_equal_cost(
    analysis: Analysis, arms: Sequence[ArmResult]
) -> Iterator[tuple[ArmResult, ArmResult]]:
    """Each arm with single-task networks that cost about the same: larger ones made for it, or its own."""
    for arm in arms:
        names = [name for name in (arm.larger, arm.reference) if name is not None]
        equal = [single for single in map(analysis.results.arm, names) if within(arm, single)]
        if equal:
            yield arm, equal[0]


def also_differs(arms: Sequence[ArmResult]) -> str:
    """A sentence on settings in which compared arms differ beside the axis in question; empty if in none."""
    found = [reading.settings(arm) for arm in arms]
    keys = list(dict.fromkeys(key for settings in found for key in settings))
    unlike = [key for key in keys if len({repr(settings.get(key)) for settings in found}) > 1]
    return f" Some of these arms differ in {join(unlike)} as well." if unlike else ""


def answer(
    question: str, analysis: Analysis, texts: Sequence[str], found: Sequence[Evidence], lacks: str
) -> Answer:
    """An answer from its sentences, or why there is none."""
    if not texts:
        return Answer(question=question, text=f"{CANNOT}: it has {lacks}.")
    if found and not any(one.tested for one in found):
        text = f"{CANNOT}: no difference could be tested, which takes two seeds or more."
        return Answer(question=question, text=text, evidence=tuple(found))
    return Answer(question=question, text=" ".join(texts), answered=bool(found), evidence=tuple(found))
