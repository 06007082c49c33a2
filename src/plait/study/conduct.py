"""A study from its file to its report: plan, measure, settle, train, report; started again, it goes on."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.config import Recipe, dump, parse_overrides, plain
from plait.errors import ConfigurationError, MissingExtraError, PlaitError
from plait.recipes import recipe_path
from plait.study import plan
from plait.study.arms import PlannedArm, arms_of, axes, with_training
from plait.study.cores import available_memory, most_processes
from plait.study.executors.base import Executor, Job
from plait.study.executors.pool import Pool
from plait.study.identity import code_version, digest
from plait.study.ledger import Ledger
from plait.study.perform import usable_cores
from plait.study.plan import Study, load_study
from plait.study.schedule import Scheduler, Snapshot, found_runs

if TYPE_CHECKING:
    from plait.study.progress import Display

STATE = "study.db"
LIBRARIES = 700 * 2**20
"""Bytes that a training process holds before it holds a network."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where runs are computed.

    Attributes:
        jobs: Runs at a time; None for as many as the machine has room for.
        device: ``cpu``, ``cuda``, ``cuda:0,cuda:1``, or ``auto``: the accelerators, if there are any.
        ray: Address of a Ray cluster; None for none.
        slurm: Options of SLURM's jobs; ``cluster: local`` tries it out with processes of this machine. None
            to do without it.
    """

    jobs: int | None = None
    device: str = "auto"
    ray: str | None = None
    slurm: Mapping[str, str] | None = None


def run_study(
    file: Path | str,
    *,
    out: Path | None = None,
    where: Where | None = None,
    retry: bool = False,
    measure_again: bool = False,
    reuse: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    display: Display | None = None,
    command: str | None = None,
) -> tuple[Path, Snapshot]:
    """Trains everything that a study needs and has not got yet.

    Killed at any point and started again, it goes on: finished runs are kept, the others go on from their
    last checkpoints. Runs are told apart by what decides them, so that an arm that is added later runs alone,
    and one that was changed runs anew.

    Args:
        file: The study's YAML file, or a built-in name.
        out: Its folder; None for ``studies/NAME``.
        where: Where runs are computed.
        retry: Try failed runs again.
        measure_again: Measure again what arms cost, on a quieter machine for instance.
        reuse: Folders of other studies, whose finished runs count if they are the same.
        overrides: Keys of all arms' recipes, as on a command line: ``["--data.root", "/data/nyud"]``.
        seeds: In the place of the study's; None for those.
        display: What shows the progress; None for nothing.
        command: What was typed, for the report.

    Returns:
        The study's folder, and how everything ended.

    Raises:
        ConfigurationError: If the study, or a way to compute it, makes no sense.
        DiskFullError: If the disk is full; finished runs are kept.
        PlaitError: If an arm cannot be built, or another process on this machine carries the study out.
    """
    from plait.study.progress import Display

    path, where, display = recipe_path(file), where or Where(), display or Display(None)
    study = load_study(path)
    study = replace(study, overrides={**study.overrides, **dict(parse_overrides(overrides))})
    if seeds is not None:
        study = replace(study, seeds=list(seeds))
    folder = out or Path("studies") / study.name
    check_search(study)
    for other in reuse:
        if not (other / "runs").is_dir():
            raise ConfigurationError(f"--reuse {other}: expected a study's folder, which has runs/ in it")
    with display, display.stage("Reading the study and its recipes"):
        arms = arms_of(study, path.parent)
        with alone(folder), closing(Ledger(folder / STATE)) as ledger:
            devices = devices_of(where)
            chosen = choices(devices) if where.ray is None and where.slurm is None else of_cluster(where)
            plain_arms = settled(arms, ledger.settle("choices", chosen))
            planned = with_larger(study, plain_arms)
            if retry:
                ledger.retry()
            ledger.recover()
            found = found_runs([folder, *reuse])
            scheduler = Scheduler(
                study=study,
                arms=planned,
                folder=folder,
                ledger=ledger,
                executor=make_executor(where, devices, folder),
                found=found,
                tell=display.update,
                said=display.say,
            )
            try:
                if measure_again:
                    ledger.forget_measurements()
                return folder, carried_out(scheduler, where, devices, display, command)
            finally:
                scheduler.executor.close()


def carried_out(
    scheduler: Scheduler, where: Where, devices: Sequence[str], display: Display, command: str | None
) -> Snapshot:
    """Measures, settles the budget, and trains."""
    study, ledger = scheduler.study, scheduler.ledger
    check_room(scheduler)
    with display.stage("Measuring what each arm costs"):
        measured = scheduler.measure(measurement(scheduler.arms, threads_of(scheduler.executor, devices)))
    costs = {name: dict(cost) for name, cost in measured.result["arms"].items()}
    if wrong := [f"arm {name!r}: {cost['error']}" for name, cost in costs.items() if "error" in cost]:
        scheduler.forget(measured.identity)  # what was wrong with the data, say, may be put right
        raise PlaitError("; ".join(wrong))
    if study.budget.minutes is not None:
        steps = settled_steps(scheduler.arms, costs, study.budget.minutes, ledger)
        scheduler.arms = [with_steps(arm, steps[arm.name]) for arm in scheduler.arms]
    scheduler.executor = enough_memory(scheduler, costs, where, devices)
    check_room(scheduler)
    ledger.write_down(
        study=plan.dump(study),
        arms=[described(arm) for arm in scheduler.arms],
        costs=costs,
        code=code_version(),
        measured=measured.identity,
        command=command or ledger.fact("command"),
    )
    ledger.forget_places()  # those of arms, seeds and trials that the study has no longer
    scheduler.expand()
    ledger.write_down(expected=scheduler.expected)
    display.begin(scheduler, costs)
    snapshot = scheduler.run()
    ledger.write_down(expected=scheduler.expected)
    return snapshot


def check_search(study: Study) -> None:
    """Refuses a search that could only fail at its second trial.

    Raises:
        MissingExtraError: If Optuna is not installed.
    """
    searches = study.tuning is not None and study.tuning.trials > 1
    if searches and importlib.util.find_spec("optuna") is None:
        raise MissingExtraError(
            "a search for settings needs Optuna, which is not installed: pip install 'plait[tune]'"
        )


def check_room(scheduler: Scheduler) -> None:
    """Refuses arms that this machine will never have room for.

    Raises:
        ConfigurationError: If there is one.
    """
    executor = scheduler.executor
    for arm in scheduler.arms if isinstance(executor, Pool) else ():
        if arm.processes > executor.slots:
            raise ConfigurationError(
                f"arm {arm.name!r} trains in {arm.processes} processes, but runs are computed by "
                f"{executor.name}: raise --jobs, or lower processes"
            )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a second scheduler of this machine out, whose processes would take the same cores.

    Schedulers of other machines may work on the same study, if they share its folder.

    Raises:
        PlaitError: If there is one.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks: the ledger keeps the runs apart in any case
        yield
        return
    import socket

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".running-on-{socket.gethostname()}").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise PlaitError(
                f"{folder} is being carried out by another process of this machine: wait for it, or see "
                f"`plait study status {folder}`"
            ) from None
        yield


def devices_of(where: Where) -> list[str]:
    """The accelerators to use, as ``CUDA_VISIBLE_DEVICES`` names them; none to compute on the processor.

    Where that variable is set already, ``cuda:0`` is the first of those it names.

    Raises:
        ConfigurationError: If one is named that is not there.
    """
    import torch

    there = [str(index) for index in range(torch.cuda.device_count())]
    if visible := [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]:
        there = visible[: len(there)]
    if where.device in ("auto", "cuda"):
        if where.device == "cuda" and not there and where.ray is None and where.slurm is None:
            raise ConfigurationError("--device cuda, but torch sees no such device here: use --device cpu")
        return there
    if where.device == "cpu":
        return []
    asked = [name.strip() for name in where.device.split(",")]
    indices = [name.removeprefix("cuda:") for name in asked]
    for name, index in zip(asked, indices, strict=True):
        if not name.startswith("cuda:") or not index.isdecimal() or int(index) >= len(there):
            known = ", ".join(f"cuda:{i}" for i in range(len(there))) or "none"
            raise ConfigurationError(
                f"--device must be cpu, cuda, or devices as cuda:0,cuda:1; got {name!r}, where there "
                f"are {known}"
            )
    return [there[int(index)] for index in indices]


def choices(devices: Sequence[str]) -> dict[str, Any]:
    """What recipes leave to ``auto``, settled once for all arms, so that none computes differently."""
    if not devices:
        return {"precision": "fp32", "channels_last": False}
    import subprocess

    # In a process of its own: looking would leave this one with memory on the device.
    code = "import torch; print(torch.cuda.is_bf16_supported(including_emulation=False))"
    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    modern = said.stdout.strip() == "True"
    return {"precision": "bf16" if modern else "fp32", "channels_last": modern}


def of_cluster(where: Where) -> dict[str, Any]:
    """The same for a cluster, whose nodes cannot be asked before a job is there: bfloat16 on accelerators."""
    slurm = where.slurm or {}
    accelerators = where.device != "cpu" and (
        where.device.startswith("cuda") or int(slurm.get("gpus_per_node", 0)) > 0
    )
    return {"precision": "bf16" if accelerators else "fp32", "channels_last": accelerators}


def settled(arms: Sequence[PlannedArm], chosen: Mapping[str, Any]) -> list[PlannedArm]:
    """The arms with what their recipes left to ``auto``."""

    def in_full(recipe: Recipe) -> Recipe:
        auto = {name: v for name, v in chosen.items() if getattr(recipe.training, name) == "auto"}
        return with_training(recipe, **auto) if auto else recipe

    return [
        replace(arm, networks=tuple(replace(n, recipe=in_full(n.recipe)) for n in arm.networks))
        for arm in arms
    ]


def with_larger(study: Study, arms: Sequence[PlannedArm]) -> list[PlannedArm]:
    """The arms, and the larger single-task networks that the study asks for."""
    if study.larger_single_task is None:
        return list(arms)
    from plait.study.larger_arms import larger_arms

    return larger_arms(arms, study.larger_single_task)


def make_executor(where: Where, devices: Sequence[str], folder: Path) -> Executor:
    """Where jobs are computed."""
    if where.ray is not None:
        from plait.study.executors.ray_cluster import RayExecutor

        accelerators = False if where.device == "cpu" else None
        return RayExecutor(
            where.ray, folder=folder, logs=folder / "logs", jobs=where.jobs, accelerators=accelerators
        )
    if where.slurm is not None:
        from plait.study.executors.slurm import SlurmExecutor

        options = dict(where.slurm)
        local = options.pop("cluster", "slurm") == "local"
        return SlurmExecutor(
            folder / "logs",
            folder=folder,
            jobs=where.jobs,
            options=options,
            cluster="local" if local else "slurm",
        )
    cores = usable_cores() or list(range(os.cpu_count() or 1))
    most = len(devices) or len(cores)
    jobs = (len(devices) or most_processes()) if where.jobs is None else where.jobs
    if jobs > most:
        what = "devices" if devices else "processor cores"
        raise ConfigurationError(f"--jobs {jobs} is more than the {most} {what} here: use --jobs {most}")
    return Pool(jobs, cores=cores, devices=devices, logs=folder / "logs")


def threads_of(executor: Executor, devices: Sequence[str]) -> int:
    """Threads of a run's process."""
    cores = len(usable_cores()) or os.cpu_count() or 1
    return max(1, cores // max(1, executor.slots)) if isinstance(executor, Pool) else 1


def enough_memory(
    scheduler: Scheduler, costs: Mapping[str, Mapping[str, Any]], where: Where, devices: Sequence[str]
) -> Executor:
    """The executor, with fewer processes if memory would not do for all.

    Raises:
        ConfigurationError: If the user wants more processes than there is memory for.
    """
    executor, free = scheduler.executor, available_memory()
    if not isinstance(executor, Pool) or devices or free is None:
        return executor
    need = memory_needed(costs)
    fit = max(1, int(free // need))
    if fit >= executor.slots:
        return executor
    if where.jobs is not None:
        raise ConfigurationError(
            f"--jobs {where.jobs} needs about {executor.slots * need / 1e9:.1f} GB, but {free / 1e9:.1f} GB "
            f"are free: use --jobs {fit}, or a smaller batch"
        )
    executor.close()
    return make_executor(replace(where, jobs=fit), devices, scheduler.folder)


def memory_needed(costs: Mapping[str, Mapping[str, Any]]) -> float:
    """Bytes that the hungriest run's process needs, roughly."""
    steps = [cost.get("step_memory") or 0 for cost in costs.values()]
    return LIBRARIES + 1.5 * max(steps, default=0)


def measurement(arms: Sequence[PlannedArm], threads: int) -> Job:
    """The job that measures what all arms cost, beside each other."""
    described = {arm.name: {"recipes": [dump(n.recipe) for n in arm.networks]} for arm in arms}
    text = json.dumps([described, threads, code_version()], sort_keys=True)
    return Job(
        identity=f"measurement-{digest(text)}",
        call="measure",
        arguments={"arms": described, "threads": threads},
    )


def settled_steps(
    arms: Sequence[PlannedArm], costs: Mapping[str, Mapping[str, Any]], minutes: float, ledger: Ledger
) -> dict[str, list[int]]:
    """The updates of each arm's networks that fit into so many minutes; stored when first found.

    They are stored by network, not by arm: whatever an arm is called, and whichever arms are added, a network
    that has begun to be trained makes as many updates as it began with.
    """
    known: dict[str, int] = dict(ledger.fact("steps", {}))
    steps: dict[str, list[int]] = {}
    for arm in arms:
        names = [digest(json.dumps([dump(network.recipe), minutes])) for network in arm.networks]
        for name, cost in zip(names, costs[arm.name]["networks"], strict=True):
            known.setdefault(name, max(1, int(60 * minutes / seconds_a_step(cost))))
        steps[arm.name] = [known[name] for name in names]
    ledger.write_down(steps=known)
    return steps


def with_steps(arm: PlannedArm, steps: Sequence[int]) -> PlannedArm:
    """An arm whose networks make so many updates."""
    networks = tuple(
        replace(network, recipe=with_training(network.recipe, steps=number))
        for network, number in zip(arm.networks, steps, strict=True)
    )
    return replace(arm, networks=networks)


def described(arm: PlannedArm) -> dict[str, Any]:
    """An arm as the ledger keeps it for the report."""
    return {
        "name": arm.name,
        "role": arm.role,
        "axes": axes(arm.recipe),
        "reference": arm.reference,
        "larger": arm.larger,
        "processes": arm.processes,
        "differs": {key: list(values) for key, values in arm.differs.items()},
        "note": arm.note,
        "networks": [{"task": n.task, "recipe": plain(n.recipe)} for n in arm.networks],
    }


def estimated_seconds(scheduler: Scheduler, costs: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Roughly how long each run takes, by identity."""
    found = {}
    for name, planned in scheduler.planned.items():
        place = planned.place
        if place is None:
            continue
        arm = next(a for a in scheduler.arms if a.name == place.arm)
        number = next(i for i, n in enumerate(arm.networks) if n.task == place.task)
        cost = costs[arm.name]["networks"][number]
        training = arm.networks[number].recipe.training
        steps = training.steps
        if planned.kind == "trial" and scheduler.study.tuning is not None:
            steps = scheduler.study.tuning.steps or steps
        every = training.validate_every or (training.checkpoint_every if training.keep == "best" else None)
        looks = 1 + (steps // every if every is not None else 0)
        scoring = looks * cost["test_images"] * cost["evaluate_seconds"]
        found[name] = cost["start_seconds"] + steps * seconds_a_step(cost) + scoring
    return found


def seconds_a_step(cost: Mapping[str, Any]) -> float:
    """Wall time of a step of training, its images read and augmented by the same core."""
    return float(cost["step_seconds"] + cost["load_seconds"])
