"""DTP: more weight to the tasks that are done badly, by their own measure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.errors import ConfigurationError
from plait.registry import nearest


def dtp_weights(kpi: Tensor, *, gamma: float = 2.0, margin: float = 0.01) -> Tensor:
    """Focal weights ``-(1 - k)^gamma log k`` of the tasks' performances k (dynamic task prioritisation).

    >>> dtp_weights(torch.tensor([0.5, 0.9]), gamma=1.0)
    tensor([0.3466, 0.0105])

    Args:
        kpi: k, ``[T]`` in [0, 1]: 1 is a task done perfectly.
        gamma: 0 gives ``-log k``; the larger, the less easy tasks count.
        margin: k is clamped to ``[margin, 1 - margin]``: the weight is infinite at 0, and zero at 1.

    Returns:
        Positive weights ``[T]`` that fall with k; not normalised, as in the paper. NaN where k is.

    Source:
        Guo et al., Dynamic Task Prioritization for Multitask Learning, ECCV 2018.
    """
    clamped = kpi.clamp(margin, 1 - margin)
    return -((1 - clamped) ** gamma) * clamped.log()


class DTP(Balancer):
    """Dynamic task prioritisation: hard tasks first, where hard is what the task's own measure says.

    Each evaluation updates a running mean of every task's performance, ``smoothing * new + (1 - smoothing) *
    old``, which starts with the first value. Before the first evaluation all weights are 1. A task that has
    no performance (an auxiliary one is not scored) has the mean weight of those that have one.

    Weights are the paper's, and small: 0.17 at a performance of one half. Nothing brings them to a fixed
    sum, so steps get shorter as tasks improve.

    The split that is evaluated decides the weights: it is no longer held out.

    Args:
        kpis: ``{task: measure}``: the measure in [0, 1], higher being better, that is a task's performance.
            Tasks have one of their own (``Task.kpi``); bare names need one here.
        gamma: See :func:`dtp_weights`.
        smoothing: Share of a new value in the running mean, above 0 and at most 1.
        margin: See :func:`dtp_weights`.
        common: See :class:`~plait.balancing.Balancer`; ``tasks`` is needed.

    Raises:
        ConfigurationError: Without tasks, for a task that is not auxiliary and has no measure, and for a
            score that is missing or outside [0, 1].

    Source:
        Guo et al., Dynamic Task Prioritization for Multitask Learning, ECCV 2018. There every task has a
        gamma of its own. The defaults of gamma (the focal loss's), smoothing and margin are ours.
    """

    needs = Needs(quantity="nothing", scores=True)
    performance: Tensor

    def __init__(
        self,
        *,
        kpis: Mapping[str, str] | None = None,
        gamma: float = 2.0,
        smoothing: float = 0.5,
        margin: float = 0.01,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        declared = common.get("tasks")
        if declared is None or self.tasks is None:
            raise ConfigurationError("DTP looks at the scores of tasks by name: pass tasks=[...]")
        if not (gamma >= 0 and 0 < smoothing <= 1 and 0 < margin < 0.5):
            raise ConfigurationError(
                f"DTP needs a gamma of 0 or more, a smoothing above 0 and at most 1, and a margin between 0 "
                f"and 0.5; got {gamma}, {smoothing} and {margin}"
            )
        own = {task.name: task.kpi for task in declared if not isinstance(task, str) and task.kpi}
        unscored = {task.name for task in declared if not isinstance(task, str) and task.auxiliary}
        self.kpis = own | dict(kpis or {})
        for name in self.kpis:
            if name not in self.tasks:
                raise ConfigurationError(
                    f"a kpi is given for {name!r}{nearest(name, self.tasks)}; "
                    f"the tasks are {', '.join(self.tasks)}"
                )
        for name in self.tasks:
            if name not in self.kpis and name not in unscored:
                raise ConfigurationError(
                    f"DTP does not know how well {name!r} is done: name its measure in [0, 1], "
                    f"kpis={{{name!r}: ...}}"
                )
        self.gamma, self.smoothing, self.margin = gamma, smoothing, margin
        # -1 before the first score.
        self.register_buffer("performance", -torch.ones(len(self.tasks), dtype=torch.float64))

    def weights(self, seen: Observation) -> Tensor:
        performance = self.performance[list(seen.places)]
        unscored = performance < 0
        kpi = performance.masked_fill(unscored, torch.nan)
        weights = dtp_weights(kpi, gamma=self.gamma, margin=self.margin)
        return torch.where(unscored, weights.nanmean().nan_to_num(1.0), weights)

    def see_scores(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Updates the running means; a task without scores, or with NaN, keeps its own."""
        for place, name in enumerate(self.tasks or ()):
            if name not in scores or name not in self.kpis:
                continue
            measure = self.kpis[name]
            if measure not in scores[name]:
                raise ConfigurationError(
                    f"the kpi of {name!r} is {measure!r}{nearest(measure, scores[name])}, "
                    f"but it was scored by {', '.join(scores[name])}"
                )
            score = float(scores[name][measure])
            if math.isnan(score):
                continue
            if not 0 <= score <= 1:
                raise ConfigurationError(
                    f"the kpi of {name!r} must be in [0, 1], got {measure} = {score}: choose another measure"
                )
            old = self.performance[place]
            mean = self.smoothing * score + (1 - self.smoothing) * old
            self.performance[place] = mean.masked_fill(old < 0, score)
