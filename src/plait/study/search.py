"""A small search for an arm's settings: each trial is asked for, from those before it, and kept elsewhere.

Nothing is stored here. What is asked next is a function of the study's search, the arm and its earlier
trials, so an interrupted search goes on as if it had not been interrupted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from plait.errors import ConfigurationError, MissingExtraError
from plait.study.plan import Range, Tuning

if TYPE_CHECKING:
    from plait.tasks.base import Measure

Trial = tuple[Mapping[str, Any], float | None]
"""Settings by dotted key, and how good they were, larger being better; None (or NaN) for a failed trial."""

Scores = Mapping[str, Mapping[str, float]]

ATTEMPTS = 32
"""How often settings are drawn again that an earlier trial had."""


def suggest(tuning: Tuning, name: str, earlier: Sequence[Trial], start: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the next trial.

    The first trial has the recipe's own. Those after it are Optuna's: with ``tpe`` a third of the trials
    (ten at most) are random before the sampler looks at what was good. Failed trials teach it nothing.
    Settings that were tried are not tried again, as long as others are found.

    Args:
        tuning: The study's search.
        name: What is searched for: an arm, or an arm and one of its networks.
        earlier: The trials so far, in the order in which they were asked for.
        start: The recipe's own settings, without the keys that it does not set.

    Returns:
        A value for each key that is searched, in the order of the study file; in the first trial only for
        those that the recipe sets.

    Raises:
        MissingExtraError: If Optuna is not installed, from the second trial on.
    """
    if not earlier:
        return {key: start[key] for key in tuning.search if key in start}
    tried = [written(settings) for settings, _ in earlier]
    for attempt in range(ATTEMPTS):
        asked = ask(tuning, f"{name}\n{len(earlier)}\n{attempt}", earlier, start, at_random=attempt > 0)
        if written(asked) not in tried:
            break
    return asked


def written(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as text, in which ``true`` is not 1."""
    return {key: repr(setting) for key, setting in settings.items()}


def ask(
    tuning: Tuning, draw: str, earlier: Sequence[Trial], start: Mapping[str, Any], *, at_random: bool
) -> dict[str, Any]:
    """Settings that Optuna asks for after earlier trials.

    Args:
        tuning: The study's search.
        draw: Decides the random numbers, with the search's seed.
        earlier: The trials so far.
        start: The recipe's own settings.
        at_random: Draw at random, whatever the sampler.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError(
            "a search for settings needs Optuna, which is not installed: pip install 'plait[tune]'"
        ) from error
    digest = hashlib.sha256(f"{tuning.seed}\n{draw}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    sampler: optuna.samplers.BaseSampler
    if at_random or tuning.sampler == "random":
        sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        sampler = optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=max(1, min(10, tuning.trials // 3)),
            multivariate=False,
            constant_liar=False,
        )
    spaces = {key: Space(tuning.space(key), start.get(key)) for key in tuning.search}
    with quiet():
        search = optuna.create_study(direction="maximize", sampler=sampler)
        for settings, value in earlier:
            # What lies outside, as the recipe's own setting may, teaches nothing about that key.
            inside = {
                key: settings[key] for key in spaces if key in settings and settings[key] in spaces[key]
            }
            done = finished(value)
            search.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.COMPLETE if done else optuna.trial.TrialState.FAIL,
                    value=value if done else None,
                    params={key: spaces[key].inner(setting) for key, setting in inside.items()},
                    distributions={key: spaces[key].distribution() for key in inside},
                )
            )
        trial = search.ask({key: space.distribution() for key, space in spaces.items()})
    return {key: space.outer(trial.params[key]) for key, space in spaces.items()}


class Space:
    """What a setting is searched among, as Optuna takes it.

    A range is of whole numbers if both its ends are, unless the recipe's own setting is not.

    Args:
        among: A range or a list of values of any kind, which Optuna knows by their places.
        start: The recipe's own setting.
    """

    def __init__(self, among: Range | list[Any], start: Any) -> None:
        self.among = among
        self.whole = isinstance(among, Range) and all(
            isinstance(end, int) and not isinstance(end, bool) for end in (among.low, among.high)
        )
        self.whole = self.whole and not isinstance(start, float)

    def __contains__(self, setting: Any) -> bool:
        if isinstance(self.among, list):
            return self.place(setting) is not None
        number = isinstance(setting, int | float) and not isinstance(setting, bool)
        return number and self.among.low <= setting <= self.among.high

    def place(self, setting: Any) -> int | None:
        """Where a setting is in the list; ``true`` is not 1 there."""
        assert isinstance(self.among, list)
        alike = (
            place
            for place, value in enumerate(self.among)
            if value == setting and isinstance(value, bool) == isinstance(setting, bool)
        )
        return next(alike, None)

    def distribution(self) -> Any:
        """Optuna's word for it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if isinstance(self.among, list):
            return CategoricalDistribution(tuple(range(len(self.among))))
        if self.whole:
            return IntDistribution(int(self.among.low), int(self.among.high), log=self.among.log)
        return FloatDistribution(float(self.among.low), float(self.among.high), log=self.among.log)

    def inner(self, setting: Any) -> int | float:
        """A setting inside, as Optuna has it."""
        if isinstance(self.among, list):
            place = self.place(setting)
            assert place is not None
            return place
        return int(setting) if self.whole else float(setting)

    def outer(self, value: Any) -> Any:
        """The setting that Optuna means."""
        return self.among[value] if isinstance(self.among, list) else value


def value(first: Scores, now: Scores, measures: Mapping[str, Sequence[Measure]]) -> float:
    """How good a trial is: the mean over tasks of how much its headline measure has gained on the first.

    A gain is relative to the size of the first trial's number (to 1 where that is 0), in the measure's own
    direction. A task without a number in the first trial does not count.

    Args:
        first: Validation scores of the first trial that did not fail: shares in [0, 1], metres, degrees.
        now: The same of this trial.
        measures: The measures of each task, the headline measure first.

    Returns:
        Larger is better, 0 is as good as the first; NaN if nothing counts, or this trial lacks a number.
    """
    gains = []
    for task, (headline, *_) in measures.items():
        before = first.get(task, {}).get(headline.name, math.nan)
        if math.isfinite(before):
            gain = (now.get(task, {}).get(headline.name, math.nan) - before) / (abs(before) or 1.0)
            gains.append(gain if headline.higher_is_better else -gain)
    return math.fsum(gains) / len(gains) if gains and all(map(math.isfinite, gains)) else math.nan


def best(earlier: Sequence[Trial]) -> dict[str, Any]:
    """The settings of the best trial; of equally good ones the earliest.

    Raises:
        ConfigurationError: If all failed.
    """
    done = [(settings, value) for settings, value in earlier if finished(value)]
    if not done:
        raise ConfigurationError(
            f"none of {len(earlier)} trials of the search finished with a finite score: search smaller "
            f"learning rates, or look at their errors"
        )
    return dict(max(done, key=lambda trial: trial[1] or 0.0)[0])


def finished(value: float | None) -> bool:
    """Whether a trial did not fail."""
    return value is not None and math.isfinite(value)


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna without its messages."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
