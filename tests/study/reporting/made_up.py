"""Studies that nobody ran: results and analyses of any size, without training and without run folders.

The numbers are drawn around an ``effect`` an arm, and the statistics here are plain t-tests over seeds: what
matters is that an :class:`Analysis` is consistent with itself, not how its intervals came about.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import plait.tasks
from plait.config import Published, Recipe, load_recipe
from plait.metrics import relative_gain
from plait.study.analysis import COSTS, Analysis, Comparison, Estimate, Key, Ranks
from plait.study.cost import Cost
from plait.study.plan import Study
from plait.study.results import ArmResult, SeedResult, StudyResults
from plait.tasks.base import Measure, Task
from plait.training.run import Run
from plait.training.scores import Scores

ARMS: Mapping[str, tuple[str, str, str, float, float]] = {
    "mtl": ("shared", "independent", "equal", -0.01, 0.5),
    "mti_net": ("shared", "mti_net", "equal", 0.04, 1.4),
    "cross_stitch": ("cross_stitch", "independent", "equal", 0.005, 1.0),
    "pad_net": ("shared", "pad_net", "equal", -0.02, 1.2),
    "mgda": ("shared", "independent", "mgda", -0.05, 0.5),
    "mtan": ("mtan", "independent", "equal", 0.01, 0.9),
    "uncertainty": ("shared", "independent", "uncertainty", -0.012, 0.5),
    "nddr_cnn": ("nddr_cnn", "independent", "equal", 0.008, 1.1),
    "dwa": ("shared", "independent", "dwa", -0.009, 0.5),
    "gradnorm": ("shared", "independent", "gradnorm", 0.0, 0.5),
}
"""Encoder, decoder, balancer, effect and multiply-accumulates (1 is those of the single-task networks)."""

SINGLE = "single-task"
BASES = {"%": 0.5, "m": 0.5, "°": 20.0, "": 0.2}


@dataclass(frozen=True)
class MadeUpRun(Run):
    """A finished run that has no folder."""

    given: Scores = field(kw_only=True)
    lines: Sequence[dict[str, Any]] = field(default=(), kw_only=True)

    @property
    def finished(self) -> bool:
        return True

    @property
    def scores(self) -> Scores:
        return self.given

    @property
    def log(self) -> list[dict[str, Any]]:
        return list(self.lines)

    @property
    def environment(self) -> dict[str, Any]:
        return {
            "command": ["plait"], "python": "3.11", "packages": {"plait": "0.1.0", "torch": "2.15.0"},
            "platform": "Linux", "processor": "a <made-up> processor", "accelerator": None, "cores": 2,
            "choices": {"threads": 1, "precision": "fp32", "channels_last": True},
        }  # fmt: skip

    @property
    def state(self) -> dict[str, Any]:
        return {"step": 100, "seconds": 60.0, "cpu_seconds": 58.0}


def analysis(
    arms: int = 6,
    seeds: int = 3,
    *,
    names: Sequence[str] | None = None,
    noise: float = 0.003,
    larger: Sequence[str] = (),
    single: bool = True,
    effects: Mapping[str, float] | None = None,
    published: bool = False,
    logs: bool = False,
    name: str = "made_up",
    data: str = "rooms",
    **about: Any,
) -> Analysis:
    """A study worked out.

    Args:
        arms: How many in all, the single-task networks included; further names repeat with a number.
        seeds: How many.
        names: The arms themselves, of :data:`ARMS`, in place of ``arms``.
        noise: Standard deviation over seeds, as a part of the score.
        larger: Names of arms beside which larger single-task networks stand.
        single: Whether there are single-task networks.
        effects: By how much arms are better than single-task networks, as a part of the score.
        published: Whether recipes carry a paper's numbers.
        logs: Whether runs have logs of losses by step.
        name: The study's.
        data: Its data set.
        about: Further attributes of :class:`StudyResults`.
    """
    if names is None:
        every = [a if n == 0 else f"{a}_{n + 1}" for n in range(1 + arms // len(ARMS)) for a in ARMS]
        names = every[: arms - single]
    start = quickstart()
    recipe = replace(start, data=replace(start.data, name=data))
    tasks = {task.name: task for task in plait.tasks.parse(recipe.tasks)}
    numbers = tuple(range(seeds))
    found = []
    if single:
        found.append(arm_result(SINGLE, recipe, tasks, numbers, noise, 0.0, 1.0, single=True, logs=logs))
    for arm in names:
        encoder, decoder, balancer, effect, macs = ARMS[kind(arm)]
        effect = (effects or {}).get(arm, effect)
        model = replace(recipe.model, encoder=encoder, decoder=decoder)
        own = replace(recipe, model=model, balancer=balancer)
        if published:
            own = replace(own, published=published_numbers(arm))
        found.append(arm_result(arm, own, tasks, numbers, noise, effect, macs, logs=logs))
        if single:
            found[-1] = replace(found[-1], reference=SINGLE)
    for arm in larger:
        effect, macs = (effects or {}).get(f"larger {arm}", 0.02), ARMS[kind(arm)][4]
        made = arm_result(
            f"single-task (larger, {arm})", recipe, tasks, numbers, noise, effect, macs, single=True
        )
        found.append(replace(made, role="larger single-task", reference=SINGLE if single else None))
        found = [replace(a, larger=made.name) if a.name == arm else a for a in found]
    results = StudyResults(
        folder=Path("studies") / name,
        study=Study(name=name, arms=dict.fromkeys(names), seeds=list(numbers)),
        tasks=tasks,
        arms=tuple(found),
        **{
            "facts": (("Data", f"{data}, scored on test"), ("Machine", "a made-up machine")),
            "alike": ("All arms saw the same images in the same order.",),
            **about,
        },
    )
    return worked_out(results)


@cache
def quickstart() -> Recipe:
    """The recipe that all arms start from, read once: reading takes longer than all the rest."""
    return load_recipe("quickstart")


def kind(arm: str) -> str:
    """The entry of :data:`ARMS` that an arm is made of: its name without a number."""
    return arm if arm in ARMS else arm.rpartition("_")[0]


def arm_result(
    name: str,
    recipe: Recipe,
    tasks: Mapping[str, Task],
    seeds: Sequence[int],
    noise: float,
    effect: float,
    macs: float,
    *,
    single: bool = False,
    logs: bool = False,
) -> ArmResult:
    """One arm, with scores around its effect and costs in proportion to its operations."""

    def run(seed: int, these: Sequence[Task]) -> MadeUpRun:
        own = replace(
            recipe,
            training=replace(recipe.training, seed=seed),
            tasks={task.name: recipe.tasks[task.name] for task in these},
        )
        values = {
            task.name: {
                m.name: score(name, recipe.data.name, task, m, seed, noise, effect) for m in task.measures
            }
            for task in these
        }
        lines = [
            {"step": step, "loss": {task.name: 2 * math.exp(-step / 20) + 0.2 for task in these}}
            for step in range(1, 101, 3)
        ]
        scores = Scores.of(these, values, split="test", images=80)
        path = Path("studies/made_up/runs") / f"{name}-{these[0].name}-{seed}"
        return MadeUpRun(path, own, given=scores, lines=lines if logs else ())

    groups = [[task] for task in tasks.values()] if single else [list(tasks.values())]
    model = recipe.model
    return ArmResult(
        name=name,
        role="single-task" if single else "arm",
        recipe=recipe,
        axes={
            "backbone": model.backbone,
            "encoder": str(model.encoder),
            "decoder": model.decoder if isinstance(model.decoder, str) else model.decoder["name"],
            "balancer": str(recipe.balancer),
        },
        seeds=tuple(SeedResult(seed=s, runs=tuple(run(s, group) for group in groups)) for s in seeds),
        cost=cost(macs),
        steps=100,
    )


def score(arm: str, data: str, task: Task, measure: Measure, seed: int, noise: float, effect: float) -> float:
    """A score that is better by ``effect``, with noise that the seed and the arm decide."""
    place = zlib.crc32(f"{arm}/{data}/{task.name}/{measure.name}/{seed}".encode())
    drawn = effect + noise * float(np.random.default_rng(place).standard_normal())
    return BASES[measure.unit] * (1 + drawn if measure.higher_is_better else 1 - drawn)


def cost(macs: float) -> Cost:
    """What a network costs that needs ``macs`` times 0.6 G multiply-accumulates."""
    return Cost(
        parameters=round(9.1e6 * macs), active_parameters=round(9e6 * macs), flops=round(1.2e9 * macs),
        latency=0.02 * macs, memory=round(9e7 * macs), step_seconds=0.4 * macs, step_memory=round(9e8 * macs),
    )  # fmt: skip


def published_numbers(arm: str) -> Published:
    """What a paper that nobody wrote says of an arm."""
    return Published(
        source="A Paper, Table 1", scores={"semantic": {"miou": 44.4}, "depth": {"rmse": 0.587}},
        relative_gain=0.41, parameters=56, flops=133, copied=arm == "pad_net", note="trained for longer",
    )  # fmt: skip


def worked_out(results: StudyResults) -> Analysis:
    """Estimates and paired t-tests over seeds."""
    arms = [arm for arm in results.arms if arm.seeds]
    values = {arm.name: by_seed(results, arm) for arm in arms}
    estimates = {arm: {key: estimate(seeds) for key, seeds in keys.items()} for arm, keys in values.items()}
    higher = {(t.name, m.name): m.higher_is_better for t in results.tasks.values() for m in t.measures}
    tested: list[Key] = [(t.name, t.headline.name) for t in results.tasks.values()]
    tested += [("gain", "mean"), *(("gain", task) for task in results.tasks)]
    comparisons = {}
    for key in tested:
        pairs = [
            compare(a, b, values[a][key], values[b][key])
            for a, b in itertools.combinations(values, 2)
            if key in values[a] and key in values[b]
        ]
        if pairs:
            comparisons[key] = holm(pairs, higher.get(key, True))
    best = {
        key: arm
        for key, pairs in comparisons.items()
        for arm in values
        if all(pair.better == arm for pair in pairs if arm in (pair.first, pair.second))
        and any(arm in (pair.first, pair.second) for pair in pairs)
    }
    return Analysis(
        results=results,
        estimates=estimates,
        comparisons=comparisons,
        ranks=ranks(results, estimates),
        best=best,
        fronts={cost: front(arms, estimates, cost) for cost in COSTS},
    )


def by_seed(results: StudyResults, arm: ArmResult) -> dict[Key, dict[int, float]]:
    """``{key: {seed: value}}`` of measures and gains; single-task networks gain 0 over themselves."""
    found: dict[Key, dict[int, float]] = {}
    name = arm.name if arm.role == "single-task" else arm.reference
    reference = None if name is None else {s.seed: s for s in results.arm(name).seeds}
    for result in arm.seeds:
        for task, numbers in result.scores.items():
            for measure, value in numbers.items():
                found.setdefault((task, measure), {})[result.seed] = value
        if reference is not None and result.seed in reference and set(result.scores) == set(results.tasks):
            theirs = reference[result.seed].scores
            gain = relative_gain(result.scores, theirs, results.measures, variant=results.variant)
            for task, value in {**gain.per_task, "mean": gain.mean}.items():
                found.setdefault(("gain", task), {})[result.seed] = 100 * value
    return found


def estimate(seeds: Mapping[int, float]) -> Estimate:
    """Mean, spread and t interval over seeds; with one seed an interval as if over images."""
    numbers = list(seeds.values())
    mean = float(np.mean(numbers))
    if len(numbers) < 2:
        half = 0.02 * abs(mean) + 0.001
        return Estimate(
            mean=mean, spread=math.nan, low=mean - half, high=mean + half, by_seed=dict(seeds),
            over_images=True, over_seeds=False,
        )  # fmt: skip
    spread = float(np.std(numbers, ddof=1))
    half = float(stats.t.ppf(0.975, len(numbers) - 1)) * spread / math.sqrt(len(numbers))
    return Estimate(
        mean=mean, spread=spread, low=mean - half, high=mean + half, by_seed=dict(seeds),
        over_images=True, over_seeds=True,
    )  # fmt: skip


def compare(first: str, second: str, ours: Mapping[int, float], theirs: Mapping[int, float]) -> Comparison:
    """A paired t-test over seeds, not yet corrected."""
    difference = estimate({seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs})
    n, p = len(difference.by_seed), math.nan
    if n > 1:
        p = float(2 * stats.t.sf(abs(difference.mean) / (difference.spread / math.sqrt(n)), n - 1))
    return Comparison(
        first=first, second=second, difference=difference.mean, low=difference.low, high=difference.high,
        p=p, adjusted=p, better=None,
    )  # fmt: skip


def holm(pairs: Sequence[Comparison], higher_is_better: bool) -> tuple[Comparison, ...]:
    """The comparisons of one key, corrected for their number."""
    order = sorted(range(len(pairs)), key=lambda place: pairs[place].p)
    adjusted, most = [math.nan] * len(pairs), 0.0
    for rank, place in enumerate(order):
        if not math.isnan(pairs[place].p):
            most = max(most, min(1.0, (len(pairs) - rank) * pairs[place].p))
            adjusted[place] = most
    found = []
    for pair, p in zip(pairs, adjusted, strict=True):
        ahead = pair.first if (pair.difference > 0) == higher_is_better else pair.second
        found.append(replace(pair, adjusted=p, better=ahead if p < 0.05 else None))
    return tuple(found)


def ranks(results: StudyResults, estimates: Mapping[str, Mapping[Key, Estimate]]) -> Ranks | None:
    """Mean ranks over tasks."""
    if len(estimates) < 2:
        return None
    blocks = []
    for task in results.tasks.values():
        sign = -1 if task.headline.higher_is_better else 1
        key = (task.name, task.headline.name)
        blocks.append(stats.rankdata([sign * keys[key].mean for keys in estimates.values()]))
    mean = dict(zip(estimates, (float(rank) for rank in np.mean(blocks, axis=0)), strict=True))
    k, n = len(estimates), len(blocks)
    q = float(stats.studentized_range.ppf(0.95, k, np.inf)) / math.sqrt(2)
    critical = q * math.sqrt(k * (k + 1) / (6 * n))
    ordered = sorted(mean, key=lambda arm: mean[arm])
    cliques: list[tuple[str, ...]] = []
    for start, arm in enumerate(ordered):
        group = tuple(other for other in ordered[start:] if mean[other] - mean[arm] < critical)
        if len(group) > 1 and not any(set(group) <= set(known) for known in cliques):
            cliques.append(group)
    p = float(stats.friedmanchisquare(*np.transpose(blocks)).pvalue) if k > 2 else math.nan
    return Ranks(mean=mean, blocks=n, critical_difference=critical, p=p, cliques=tuple(cliques))


def front(
    arms: Sequence[ArmResult], estimates: Mapping[str, Mapping[Key, Estimate]], cost: str
) -> tuple[str, ...]:
    """The arms that no other beats in both cost and mean relative gain, cheapest first."""
    gain: Key = ("gain", "mean")
    points = [
        (float(getattr(arm.cost, cost)), -estimates[arm.name][gain].mean, arm.name)
        for arm in arms
        if arm.cost is not None and gain in estimates[arm.name]
    ]
    kept, highest = [], math.inf
    for _, loss, name in sorted(points):
        if loss < highest:
            kept.append(name)
            highest = loss
    return tuple(kept)


def without_differences(made: Analysis) -> Analysis:
    """The same numbers with no difference shown: every p-value is 1."""
    silent = {
        key: tuple(replace(pair, p=1.0, adjusted=1.0, better=None) for pair in pairs)
        for key, pairs in made.comparisons.items()
    }
    return replace(made, comparisons=silent, best={})


def reordered(made: Analysis) -> Analysis:
    """The same study with its arms in the opposite order."""
    results = replace(made.results, arms=made.results.arms[::-1])
    comparisons = {
        key: tuple(turned(pair) for pair in reversed(pairs)) for key, pairs in made.comparisons.items()
    }
    estimates = {arm: made.estimates[arm] for arm in reversed(list(made.estimates))}
    return replace(made, results=results, estimates=estimates, comparisons=comparisons)


def turned(pair: Comparison) -> Comparison:
    """A comparison seen from the other arm."""
    return replace(
        pair, first=pair.second, second=pair.first, difference=-pair.difference, low=-pair.high,
        high=-pair.low,
    )  # fmt: skip


def renamed(made: Analysis, names: Mapping[str, str]) -> Analysis:
    """The same study with other names of arms."""
    arms = tuple(replace(arm, name=names.get(arm.name, arm.name)) for arm in made.results.arms)
    return worked_out(replace(made.results, arms=arms))
