"""What was the same for all arms of a study, what was not, and what it ran on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plait.study.comparison import join
from plait.study.progress import in_words

if TYPE_CHECKING:
    from plait.config import Recipe
    from plait.study.plan import Study
    from plait.study.results import ArmResult
    from plait.training.run import Run

PACKAGES = ("plait", "torch", "torchvision", "timm", "torchmetrics", "numpy")


def alike(study: Study, arms: Sequence[ArmResult]) -> Iterator[str]:
    """Sentences: what every arm had alike."""
    recipes = [arm.recipe for arm in arms if arm.seeds]
    data = recipes[0].data
    yield (
        f"Every arm learned from {data.name}, split {data.train_split}, and was scored on {data.test_split}, "
        f"which took no part in any choice."
    )
    orders = {(r.training.batch_size, r.data.sampling, str(r.data.partial)) for r in recipes}
    same = "the same samples in the same order" if len(orders) == 1 else "the same samples"
    views = {str(sorted(r.augmentation.items())) for r in recipes}
    yield (
        f"For each seed all arms saw {same}, each image augmented "
        f"{'by the same draws' if len(views) == 1 else 'by draws of the same seed'}: both follow from seed, "
        f"epoch and image alone."
    )
    for what, values in common_settings(recipes).items():
        yield f"The same for all: {what} {values}."
    if study.tuning is not None:
        keys = join(list(study.tuning.search))
        steps = f" of {study.tuning.steps} steps" if study.tuning.steps is not None else ""
        yield (
            f"Each network, the single-task ones too, was given {study.tuning.trials} trials{steps} to set "
            f"{keys}, chosen by its mean relative gain over its own first trial on split "
            f"{data.validation_split}."
        )
    selected = {recipe.training.keep for recipe in recipes}
    if selected == {"last"}:
        yield "The last weights were scored; none were selected."
    elif selected == {"best"}:
        yield f"The weights that were best on split {data.validation_split} were scored."


def common_settings(recipes: Sequence[Recipe]) -> dict[str, str]:
    """Settings that are worth naming and that all recipes have alike."""

    def told(recipe: Recipe) -> dict[str, str]:
        training, optimizer = recipe.training, recipe.optimizer
        return {
            "backbone": f"{recipe.model.backbone}, {starts(recipe)}",
            "length": f"{training.steps} steps of {training.batch_size} images",
            "optimizer": f"{optimizer.name}, rate {optimizer.lr:g}, weight decay {optimizer.weight_decay:g}",
            "schedule": recipe.schedule.name,
            "precision": training.precision,
        }

    everyone = [told(recipe) for recipe in recipes]
    return {what: value for what, value in everyone[0].items() if all(o[what] == value for o in everyone)}


def starts(recipe: Recipe) -> str:
    """What a backbone started from."""
    if recipe.model.weights is not None:
        return f"weights of {recipe.model.weights}"
    return "ImageNet weights" if recipe.model.pretrained else "random weights"


def unlike(study: Study, arms: Sequence[ArmResult]) -> Iterator[str]:
    """Sentences: in what arms differed beside what is compared, and what failed or is missing."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for arm in arms:
        if arm.differs and arm.seeds:
            here = tuple((key, value) for key, (value, _) in arm.differs.items())
            groups.setdefault(here, []).append(arm.name)
    for here, names in groups.items():
        told = join([f"{key} {value}" for key, value in here])
        yield f"{join(names)} differ{'s' * (len(names) == 1)} from the study's recipe in {told}."
    for arm in arms:
        started = arm.seeds[0].runs[0].recipe.model.init_from if arm.seeds else None
        if started is not None:
            what = "a trained run" if isinstance(started, str) else "trained single-task networks"
            yield f"{arm.name} starts from {what}, whose training comes on top of its own."
        if arm.note:
            yield f"{arm.name}: {arm.note}."
        for task, settings in arm.tuned.items():
            what = f" on {task}" * bool(task)
            chosen = join([f"{key} {shown(value)}" for key, value in settings.items()])
            yield f"The search set {chosen} for {arm.name}{what}."
    yield from unfinished(arms)
    yield from differing_environments([run for arm in arms for run in arm.runs])


def unfinished(arms: Sequence[ArmResult]) -> Iterator[str]:
    """Sentences: what failed, and which seeds are missing, arms with the same ones together."""
    failed: dict[tuple[int, str], list[str]] = {}
    missing: dict[tuple[int, ...], list[str]] = {}
    for arm in arms:
        for seed, error in arm.failed.items():
            failed.setdefault((seed, error), []).append(arm.name)
        if arm.missing:
            missing.setdefault(arm.missing, []).append(arm.name)
    for (seed, error), names in failed.items():
        yield f"{join(names)}, seed {seed}, failed: {error.rstrip('.')}."
    for seeds, names in missing.items():
        have = "has" if len(names) == 1 else "have"
        told = f"seed{'s' * (len(seeds) > 1)} {join([str(seed) for seed in seeds])}"
        yield f"{join(names)} {have} not finished {told}."


def shown(value: object) -> str:
    """A setting as a person reads it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def differing_environments(runs: Sequence[Run]) -> Iterator[str]:
    """Sentences: where runs were made by different software, machines, threads or precision."""
    found: dict[str, set[str]] = {}
    for run in runs:
        about = run.environment
        found.setdefault("processor", set()).add(str(about.get("processor")))
        found.setdefault("accelerator", set()).add(str(about.get("accelerator") or "none"))
        found.setdefault("Python", set()).add(str(about.get("python")))
        for package in PACKAGES:
            found.setdefault(package, set()).add(str(about.get("packages", {}).get(package)))
        for choice, value in about["choices"].items():
            found.setdefault(choice.replace("_", " "), set()).add(str(value))
    for what, values in found.items():
        if len(values) > 1:
            yield f"Not all runs had the same {what}: {join(sorted(values))}."


def facts_of(study: Study, arms: Sequence[ArmResult], known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the runs were made from and on, as a list of names and values."""
    runs = [run for arm in arms for run in arm.runs]
    different = {run.path.resolve(): run for run in runs}.values()
    recipe, environment = runs[0].recipe, runs[0].environment
    if known.get("command"):
        yield "Command", str(known["command"])
    yield "Data", f"{recipe.data.name}: {recipe.data.train_split} to learn, {recipe.data.test_split} to score"
    yield "Test images", str(runs[0].scores.images)
    yield "Seeds", join([str(seed) for seed in study.seeds])
    steps = sorted({run.recipe.training.steps for run in different})
    batches = sorted({run.recipe.training.batch_size for run in different})
    yield (
        "Training",
        (f"{join([str(s) for s in steps])} steps of {join([str(b) for b in batches])} images, each network"),
    )
    yield "Networks trained", str(len(different))
    yield (
        "Training time",
        (
            f"{in_words(sum(run.train_seconds for run in different))} added up, "
            f"{in_words(sum(run.train_cpu_seconds for run in different))} of a processor"
        ),
    )
    cores = environment.get("cores")
    yield "Machine", f"{environment.get('processor')}, {cores} core{'s' * (cores != 1)} a run"
    yield "Accelerator", str(environment.get("accelerator") or "none")
    yield "System", f"{environment.get('platform')}, Python {environment.get('python')}"
    packages = environment.get("packages", {})
    yield "Packages", ", ".join(f"{name} {packages[name]}" for name in PACKAGES if packages.get(name))
    yield "Code", f"{known.get('code')} (the same digits: the same code decides the runs)"
