"""What is estimated of each arm: scores and relative gains by seed, on all and on resampled test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from plait.errors import DataError
from plait.metrics.additive import Additive, additive
from plait.study.behrens_fisher import Values
from plait.study.statistics import image_weights

if TYPE_CHECKING:
    from plait.study.results import ArmResult, SeedResult, StudyResults
    from plait.tasks.base import Task
    from plait.training.run import Run

Key = tuple[str, str]
"""What is estimated or tested: ``(task, measure)``, ``("gain", task)`` or ``("gain", "mean")``."""

GAIN: Key = ("gain", "mean")


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """One quantity of one arm.

    Attributes:
        by_seed: On all test images, ``{seed: value}``.
        replicates: On resampled images, ``{seed: [R]}``: the same images in the same place for all arms and
            seeds. None without statistics of single images.
        images: How many test images have a label; zero without such statistics.
    """

    by_seed: Mapping[int, float]
    replicates: Mapping[int, Values] | None
    images: int


class Resampler:
    """Scores runs on resampled test images, the same for all of them.

    Args:
        tasks: The reported tasks, with the measures of their protocol.
        replicates: How often the split is drawn anew.
    """

    def __init__(self, tasks: Mapping[str, Task], replicates: int = 1000) -> None:
        self.replicates = replicates
        self.images: dict[str, int] = {}
        self.metrics: dict[str, Additive] = {}
        for name, task in tasks.items():
            metric = task.metric()
            if additive(metric):
                self.metrics[name] = metric
        self._ids: tuple[str, ...] = ()
        self._weights = torch.empty(0)

    def scores(self, run: Run) -> dict[Key, Values]:
        """The measures of a run on resampled images, ``{(task, measure): [R]}``; empty without statistics.

        Raises:
            DataError: If the run was scored on other images than those before it, or its statistics are not
                those of the tasks' measures.
        """
        kept = run.per_image
        if kept is None or len(kept.ids) < 2:
            return {}
        if not self._ids:
            self._ids = kept.ids
            self._weights = torch.from_numpy(image_weights(len(kept.ids), self.replicates))
        if kept.ids != self._ids:
            raise DataError(
                f"{run.path} was scored on {len(kept.ids)} images that are not the {len(self._ids)} of the "
                f"study's other runs: remove its folder and run the study again"
            )
        found: dict[Key, Values] = {}
        for task, rows in kept.statistics.items():
            metric = self.metrics.get(task)
            if metric is None:
                continue
            if rows.shape[1] != len(metric.statistics()):
                raise DataError(
                    f"{run.path} keeps {rows.shape[1]} numbers an image for {task}, expected "
                    f"{len(metric.statistics())}: it was scored by other rules, so remove its folder and run "
                    f"the study again"
                )
            self.images[task] = int(rows.any(1).sum())
            for measure, values in metric.measures_of(self._weights @ rows).items():
                found[task, measure] = values.numpy()
        return found


def numbers_of(results: StudyResults, resampler: Resampler) -> dict[str, dict[Key, Numbers]]:
    """``{arm: {key: numbers}}`` of the arms with a finished seed: measures, and relative gains in percent."""
    scores = {arm.name: dict(scored(arm, results.tasks, resampler)) for arm in results.arms if arm.seeds}
    return {
        arm.name: {**scores[arm.name], **dict(gains(arm, scores, results, resampler))}
        for arm in results.arms
        if arm.seeds
    }


def scored(arm: ArmResult, tasks: Mapping[str, Task], resampler: Resampler) -> Iterator[tuple[Key, Numbers]]:
    """The measures of an arm."""
    drawn = {result.seed: replicates_of(result, resampler) for result in arm.seeds}
    for name, task in tasks.items():
        for measure in task.measures:
            key = (name, measure.name)
            by_seed = {
                result.seed: result.scores[name][measure.name]
                for result in arm.seeds
                if measure.name in result.scores.get(name, {})
            }
            if by_seed:
                known = all(key in drawn[seed] for seed in by_seed)
                replicates = {seed: drawn[seed][key] for seed in by_seed} if known else None
                images = resampler.images[name] if known else 0
                yield key, Numbers(by_seed=by_seed, replicates=replicates, images=images)


def replicates_of(result: SeedResult, resampler: Resampler) -> dict[Key, Values]:
    """The measures of all runs of a seed on resampled images."""
    return {key: values for run in result.runs for key, values in resampler.scores(run).items()}


def gains(
    arm: ArmResult,
    scores: Mapping[str, Mapping[Key, Numbers]],
    results: StudyResults,
    resampler: Resampler,
) -> Iterator[tuple[Key, Numbers]]:
    """The relative gains of an arm over its single-task networks of the same seed; theirs are zero."""
    reference = arm.name if arm.role == "single-task" else arm.reference
    if reference is None or reference not in scores:
        return
    ours, theirs = scores[arm.name], scores[reference]
    by_task = []
    for name, task in results.tasks.items():
        chosen = task.measures[:1] if results.variant == "survey" else task.measures
        keys = [(name, measure.name) for measure in chosen]
        if any(key not in ours or key not in theirs for key in keys):
            continue
        signs = [1 if measure.higher_is_better else -1 for measure in chosen]
        found = mean_of([gain(ours[k], theirs[k], sign) for k, sign in zip(keys, signs, strict=True)])
        if found.by_seed:
            by_task.append(found)
            yield ("gain", name), found
    if len(by_task) == len(results.tasks):
        found = mean_of(by_task)
        if found.by_seed:
            yield GAIN, found


def gain(ours: Numbers, theirs: Numbers, sign: int) -> Numbers:
    """The relative improvement in percent, on the seeds that both have; NaN where the reference is zero."""

    def relative(value: Values, single: Values) -> Values:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(single == 0, np.nan, sign * 100 * (value - single) / single)

    by_seed = {
        seed: relative(np.array(value), np.array(theirs.by_seed[seed])).item()
        for seed, value in ours.by_seed.items()
        if seed in theirs.by_seed
    }
    replicates = None
    if ours.replicates is not None and theirs.replicates is not None:
        replicates = {s: relative(ours.replicates[s], theirs.replicates[s]) for s in by_seed}
    return Numbers(by_seed=by_seed, replicates=replicates, images=min(ours.images, theirs.images))


def mean_of(several: Sequence[Numbers]) -> Numbers:
    """The mean of quantities, on the seeds that all have."""
    seeds = [s for s in several[0].by_seed if all(s in one.by_seed for one in several)]
    by_seed = {s: float(np.mean([one.by_seed[s] for one in several])) for s in seeds}
    kept = [one.replicates for one in several if one.replicates is not None]
    replicates = None
    if len(kept) == len(several):
        replicates = {s: np.mean([one[s] for one in kept], axis=0) for s in seeds}
    return Numbers(by_seed=by_seed, replicates=replicates, images=min(one.images for one in several))
