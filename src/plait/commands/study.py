"""``plait study``: studies run, and how they stand."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from plait.commands.base import Commands, Parser, console, folder, say
from plait.commands.report import report_studies
from plait.errors import ConfigurationError, PlaitError


def add(commands: Commands) -> None:
    """Declares the commands."""
    study_ = commands.add(
        "study",
        lambda parsed: parsed.parser.print_help(),
        help="compare architectures and balancers like with like: arms x seeds, to a report with statistics",
    )
    add_study_commands(study_)


def add_study_commands(study_: Parser) -> None:
    """``study run`` and ``study status``."""
    kinds = study_.add_subparsers(title="commands", metavar="COMMAND")
    what = "run a study to its report; started again, it goes on where it stopped"
    run_: Parser = kinds.add_parser(
        "run",
        help=what,
        description=what,
        epilog=(
            "A study is a YAML file: a recipe, arms that change some of its keys (or a grid), and seeds.\n"
            "Single-task networks are added by themselves. `plait list studies` names the built-in ones.\n"
            "Any key of all arms' recipes can be set:  plait study run nyud/balancing --data.root /data/nyud"
        ),
    )
    run_.set_defaults(
        command=study_run,
        parser=run_,
        takes_overrides="recipe",
        after_stop=["the same command keeps finished runs and goes on from the others' last checkpoints"],
    )
    run_.add_argument("study", metavar="STUDY", help="a YAML file, or the name of a built-in study")
    run_.add_argument("--out", type=folder, metavar="DIR", help="its folder (default: studies/NAME)")
    run_.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time (default: as many as cores and memory, or devices, allow)",
    )
    run_.add_argument(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="cpu, cuda, or devices as cuda:0,cuda:1 (default: the accelerators, if there are any)",
    )
    run_.add_argument(
        "--seeds", type=int, nargs="+", metavar="N", help="in the place of the study's own seeds"
    )
    run_.add_argument("--retry", action="store_true", help="try failed runs again")
    run_.add_argument(
        "--measure", action="store_true", help="measure again what arms cost, as on a quieter machine"
    )
    run_.add_argument(
        "--reuse",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of other studies, whose finished runs count where they are the same",
    )
    run_.add_argument("--no-report", action="store_false", dest="report", help="write no report at the end")
    cluster = run_.add_argument_group("clusters")
    cluster.add_argument(
        "--ray", metavar="ADDRESS", help="on a Ray cluster: auto, or the address of its head"
    )
    cluster.add_argument(
        "--slurm",
        nargs="*",
        metavar="KEY=VALUE",
        help="as SLURM jobs, with options such as partition=gpu timeout_min=600",
    )
    status = kinds.add_parser("status", help="how a study stands", description="how a study stands")
    status.set_defaults(command=study_status, parser=status)
    status.add_argument("study", type=Path, metavar="STUDY", help="a study's folder or file")


def study_run(parsed: argparse.Namespace) -> None:
    """A study."""
    from plait.study.conduct import Where, run_study
    from plait.study.progress import Display
    from plait.study.schedule import failures

    slurm = None if parsed.slurm is None else dict(pair(word) for word in parsed.slurm)
    if slurm is not None and parsed.ray is not None:
        raise ConfigurationError("--ray and --slurm exclude each other: choose one")
    where = Where(jobs=parsed.jobs, device=parsed.device, ray=parsed.ray, slurm=slurm)
    words = ["plait", *parsed.words]
    folder, snapshot = run_study(
        parsed.study,
        out=parsed.out,
        where=where,
        retry=parsed.retry,
        measure_again=parsed.measure,
        reuse=parsed.reuse,
        overrides=parsed.overrides,
        seeds=parsed.seeds,
        display=Display(console()),
        command=shlex.join(words),
    )
    if parsed.report and snapshot.count("finished"):
        report_studies([folder], None)
    if failed := failures(snapshot):
        raise PlaitError("; ".join([*failed, "the same command with --retry tries them again"]))


def pair(word: str) -> tuple[str, str]:
    """Reads ``KEY=VALUE``."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ConfigurationError(
            f"--slurm takes options as KEY=VALUE, for instance partition=gpu; got {word!r}"
        )
    return key, value


def study_status(parsed: argparse.Namespace) -> None:
    """How a study stands."""
    from plait.study.progress import table
    from plait.study.status import read_status, study_folder

    snapshot, sentences = read_status(study_folder(parsed.study))
    console().print(table(snapshot))
    say("\n".join(sentences))
