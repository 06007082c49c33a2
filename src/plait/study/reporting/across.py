"""What holds across data sets: the same two arms in several studies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from plait.study.analysis import Analysis
from plait.study.comparison import join
from plait.study.reporting import reading
from plait.study.reporting.evidence import CANNOT, FEW, Answer, Evidence, evidence
from plait.study.results import ArmResult


@dataclass(frozen=True)
class Shared:
    """Two arms in one quantity, in every study that has both.

    Attributes:
        found: What each study says.
    """

    found: tuple[Evidence, ...]

    @property
    def winners(self) -> list[str | None]:
        """The better arm in each study, or None."""
        return [one.comparison.better for one in self.found]

    @property
    def agrees(self) -> bool:
        """Whether every study shows the same arm to be the better one."""
        return None not in self.winners and len(set(self.winners)) == 1

    @property
    def opposes(self) -> bool:
        """Whether two studies show opposite differences."""
        return len({winner for winner in self.winners if winner is not None}) > 1

    @property
    def shown_once(self) -> bool:
        """Whether some studies show a difference, the same way, and others do not."""
        return not self.agrees and not self.opposes and any(winner is not None for winner in self.winners)

    @property
    def named(self) -> str:
        """``a over b``, the better one first."""
        pair = self.found[0].comparison
        winner = next((winner for winner in self.winners if winner is not None), pair.first)
        return f"{winner} over {pair.second if winner == pair.first else pair.first}"


def across(question: str, analyses: Sequence[Analysis]) -> Answer:
    """Differences of the same two arms in studies of different data."""
    data = list(dict.fromkeys(name for analysis in analyses for name in reading.data_sets(analysis.results)))
    if len(analyses) == 1 or len(data) == 1:
        subject = CANNOT if len(analyses) == 1 else "These studies cannot answer it"
        many = "it has" if len(analyses) == 1 else "they have"
        return Answer(question=question, text=f"{subject}: {many} one data set ({data[0]}).")
    pairs = list(shared(analyses))
    every = tuple(one for pair in pairs for one in pair.found)
    tested = [pair for pair in pairs if all(one.tested for one in pair.found)]
    if not tested:
        lacks = "no two arms that more than one of them compares" if not pairs else "no test in more than one"
        return Answer(
            question=question, text=f"These studies cannot answer it: they have {lacks}.", evidence=every
        )
    groups = (
        ("the same difference on each", [pair for pair in tested if pair.agrees]),
        ("opposite differences", [pair for pair in tested if pair.opposes]),
        (
            "a difference on some only, which does not say that there is none on the others",
            [pair for pair in tested if pair.shown_once],
        ),
    )
    said = [f"{shows(len(found))} {words} ({listed(found)})" for words, found in groups if found]
    level = len(tested) - sum(len(found) for _, found in groups)
    said += [f"{shows(level)} none on any"] * bool(level)
    number = reading.count(len(tested), "comparison")
    text = f"Of {number} that studies on {join(data)} share, {'; '.join(said)}."
    return Answer(question=question, text=text, answered=True, evidence=every)


def shows(number: int) -> str:
    """``1 shows``, ``3 show``."""
    return f"{number} {'shows' if number == 1 else 'show'}"


def listed(pairs: Sequence[Shared]) -> str:
    """The first few pairs by name."""
    more = f" and {len(pairs) - FEW} more" if len(pairs) > FEW else ""
    return f"{', '.join(pair.named for pair in pairs[:FEW])}{more}"


def shared(analyses: Sequence[Analysis]) -> Iterator[Shared]:
    """Every two arms that two or more studies of different data compare, in each quantity."""
    found: dict[tuple[frozenset[str], str], list[tuple[str, Evidence]]] = {}
    for analysis in analyses:
        arms = reading.scored(analysis)
        pairs = [(first, second) for place, first in enumerate(arms) for second in arms[place + 1 :]]
        for one in evidence(analysis, pairs):
            names = (one.comparison.first, one.comparison.second)
            same = frozenset(identity(analysis.results.arm(name)) for name in names)
            place = join(reading.data_sets(analysis.results))
            found.setdefault((same, one.quantity.words), []).append((place, one))
    for group in found.values():
        if len({place for place, _ in group}) > 1:
            yield Shared(tuple(one for _, one in group))


def identity(arm: ArmResult) -> str:
    """What makes arms of two studies the same one: name, role, encoder, decoder and balancer."""
    parts = [repr(reading.part(arm, axis)) for axis in ("encoder", "decoder", "balancer")]
    return " ".join([arm.role, arm.name, *parts])
