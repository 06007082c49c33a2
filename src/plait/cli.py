"""The command line: each command reads its arguments, calls one function and prints its result.

Nothing heavy is imported before a command needs it, so help and lists answer at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import plait
from plait import registry
from plait.errors import ConfigurationError, DataError, PlaitError
from plait.recipes import recipe_path, recipes, studies

if TYPE_CHECKING:
    from rich.console import Console

LISTS: dict[str, Callable[[], list[str]]] = {
    "encoders": plait.list_encoders,
    "decoders": plait.list_decoders,
    "heads": plait.list_heads,
    "balancers": plait.list_balancers,
    "datasets": plait.list_datasets,
    "tasks": plait.list_tasks,
    "recipes": lambda: sorted(recipes()),
    "studies": lambda: sorted(studies()),
}


class Parser(argparse.ArgumentParser):
    """An argument parser that answers an unknown word with the nearest known one, in one sentence."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs["allow_abbrev"] = False
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message} (see {self.prog} --help)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            what = action.metavar or action.dest
            raise ConfigurationError(
                f"unknown {what} {value!r}{registry.nearest(str(value), known)}; known are {', '.join(known)}"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0, or 2 for an error that the user can put right."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return run(arguments)
    except PlaitError as error:
        return fail(str(error), debug, code=2)
    except KeyboardInterrupt as stop:
        return fail("; ".join(("stopped", *stop.args)), debug, code=130)
    except BrokenPipeError:  # `plait list ... | head` closes our output: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  the last resort: a person gets a sentence, --debug the rest
        return fail(f"{type(error).__name__}: {error} (add --debug to see where)", debug, code=1)


def fail(sentence: str, debug: bool, *, code: int) -> int:
    """Prints one sentence to standard error (and the traceback with ``--debug``)."""
    if debug:
        traceback.print_exc()
    console(stderr=True).print(f"plait: {sentence}", style="bold red", soft_wrap=True)
    return code


def console(*, stderr: bool = False) -> Console:
    """The terminal; text is printed as it is, and tables keep their width when the output is a file."""
    from rich.console import Console

    target = sys.stderr if stderr else sys.stdout
    width = None if target.isatty() else 120
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def say(text: str) -> None:
    """Prints text, each of its lines as one."""
    console().print(text, soft_wrap=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error; yields the function that is told what is done so far and in all.

    It appears when the function is first called, so that work that is refused shows none.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console(stderr=True))
    job = bar.add_task(what, total=None)

    def tell(done: int, total: int) -> None:
        bar.update(job, completed=done, total=total)
        bar.start()

    try:
        yield tell
    finally:
        if bar.live.is_started:
            bar.stop()


def run(arguments: Sequence[str]) -> int:
    """Parses the arguments and calls the command."""
    from plait.config import Recipe

    parser = make_parser()
    own, overrides = without_overrides(arguments)
    parsed, rest = parser.parse_known_args(own)
    if "command" not in parsed:
        parser.print_help()
        return 0
    takes = getattr(parsed, "takes_overrides", "none")
    unknown = {"none": overrides + rest, "recipe": rest, "any": []}[takes]
    rest = overrides + rest
    if unknown:
        options = [option for action in parsed.parser._actions for option in action.option_strings]
        if takes == "recipe":
            options += [f"--{part.name}" for part in fields(Recipe)]
        hint = registry.nearest(unknown[0], options)
        raise ConfigurationError(f"unknown argument {unknown[0]!r}{hint} (see {parsed.parser.prog} --help)")
    parsed.overrides = rest
    parsed.words = list(arguments)
    try:
        parsed.command(parsed)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*getattr(parsed, "after_stop", ())) from stop
    return 0


def without_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command's own words, and the ``--dotted.key value`` of a recipe, which may stand before or after.

    >>> without_overrides(["train", "--training.steps", "3", "--balancer=mgda", "rooms_shared", "--fresh"])
    (['train', 'rooms_shared', '--fresh'], ['--training.steps', '3', '--balancer=mgda'])
    """
    from plait.config import Recipe

    known = {part.name for part in fields(Recipe)}
    own: list[str] = []
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        key, equals, _ = word.removeprefix("--").partition("=")
        if word.startswith("--") and ("." in key or key in known):
            overrides += [word, *islice(rest, 0 if equals else 1)]
        else:
            own.append(word)
    return own, overrides


def make_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="plait",
        description="One network for many dense prediction tasks, and what sharing is worth.",
        epilog="Start with:  plait quickstart\nAny command with --debug shows the traceback of an error.",
    )
    parser.add_argument("--version", action="version", version=f"plait {plait.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], None], **kwargs: Any) -> Parser:
        made: Parser = commands.add_parser(name, description=kwargs["help"], **kwargs)
        made.set_defaults(command=command, parser=made)
        return made

    quick = add(
        "quickstart",
        quickstart,
        help="single-task networks beside a multi-task one on rendered rooms: table and report",
    )
    quick.add_argument(
        "--minutes", type=float, default=5.0, metavar="M", help="scales the training steps; 5 by default"
    )
    quick.add_argument(
        "--out",
        type=folder,
        default=Path("quickstart"),
        metavar="DIR",
        help="where runs and the report go (default: quickstart)",
    )
    quick.set_defaults(
        after_stop=["the same command keeps finished runs and goes on from the others' last checkpoints"]
    )

    train_ = add(
        "train",
        train,
        help="train one network by a recipe; started again, it goes on where it stopped",
        epilog=(
            "Any key of the recipe can be overridden:\n"
            "  plait train rooms_shared --out runs/a --training.steps 500 --model.backbone resnet18\n"
            "`plait list recipes` names the built-in ones; `plait train RECIPE --print` shows all keys."
        ),
    )
    train_.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a built-in recipe")
    train_.add_argument("--out", type=folder, metavar="DIR", help="the run's folder (default: runs/RECIPE)")
    train_.add_argument(
        "--fresh", action="store_true", help="refuse to go on with a run that is already in DIR"
    )
    train_.add_argument(
        "--print", action="store_true", dest="show", help="print the resolved recipe and stop"
    )
    train_.set_defaults(
        takes_overrides="recipe",
        after_stop=["the same command, without --fresh, goes on from the last checkpoint, or from the start"],
    )

    evaluate_ = add(
        "evaluate",
        evaluate,
        help="score a trained run on a split, or maps on disk of any software: one row a measure",
        epilog=(
            "Maps on disk, in DIR/TASK/ID.png (or .npy, .npz, .mat; DIR/ID.png where there is one task):\n"
            "  plait evaluate --predictions DIR --targets DIR --task edges=edges --protocol survey\n"
            "  plait evaluate --predictions DIR --targets DIR --scoring scoring.yaml\n"
            "A task is NAME=KIND, or NAME={kind: semantic, classes: 21}. scoring.yaml holds `tasks` as a\n"
            "recipe does, and where maps are not stored in the usual way `predictions` and `targets`:\n"
            "  targets: {depth: {scale: 0.001}}"
        ),
    )
    evaluate_.add_argument("run", type=Path, nargs="?", metavar="RUN", help="a run's folder")
    evaluate_.add_argument(
        "--protocol",
        metavar="PROTOCOL",
        help="by whose rules: plain, survey, invpt or mtan (default: as the run's recipe says, else plain)",
    )
    maps = evaluate_.add_argument_group("maps on disk")
    maps.add_argument("--predictions", type=Path, metavar="DIR", help="the maps to score")
    maps.add_argument("--targets", type=Path, metavar="DIR", help="the labels")
    maps.add_argument(
        "--task", action="append", default=[], metavar="NAME=KIND", help="a task to score; may be repeated"
    )
    maps.add_argument(
        "--scoring", type=Path, metavar="FILE", help="the tasks, and how maps are stored, in YAML"
    )
    maps.add_argument(
        "--max-distance",
        type=float,
        metavar="D",
        help="edges: how far a match may lie, as a part of the image's diagonal (default: 0.0075)",
    )
    maps.add_argument(
        "--resize", action="store_true", help="bring predictions of another size to their target's"
    )
    maps.add_argument(
        "--workers", type=int, metavar="N", help="threads (default: as many as there are cores, at most 8)"
    )
    evaluate_.add_argument("--split", metavar="SPLIT", help="which split (default: the recipe's test split)")
    evaluate_.add_argument(
        "--flip", action="store_true", default=None, help="average with the mirrored image"
    )
    evaluate_.add_argument(
        "--scales", type=float, nargs="+", metavar="S", help="average over image scales, e.g. 0.75 1 1.25"
    )
    evaluate_.add_argument(
        "--window", type=size, metavar="HxW", help="slide a window of this size over larger images"
    )
    evaluate_.add_argument("--json", type=file, metavar="FILE", help="also write the scores there")

    study_ = add(
        "study",
        lambda parsed: parsed.parser.print_help(),
        help="compare architectures and balancers like with like: arms x seeds, to a report with statistics",
    )
    add_study_commands(study_)

    report_ = add(
        "report", report, help="report studies, or compare runs: HTML, Markdown, CSV, for studies also LaTeX"
    )
    report_.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="STUDY",
        help="studies' folders or files; or runs' folders, or one folder that holds runs",
    )
    report_.add_argument(
        "--out", type=file, metavar="FILE", help="the HTML file (default: report.html beside the runs)"
    )

    diagnose_ = add(
        "diagnose",
        diagnose,
        help="what the tasks' gradients do to each other and to the update, over time and by stage: one page",
        epilog=(
            "A run trained with --training.diagnose_every 20, for instance, has measured while it trained.\n"
            "Of any other, gradients are taken now at its checkpoint: by stage, but not over time."
        ),
    )
    diagnose_.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    diagnose_.add_argument(
        "--out", type=file, metavar="FILE", help="the HTML file (default: diagnosis.html in the run's folder)"
    )
    diagnose_.add_argument(
        "--batches",
        type=int,
        default=8,
        metavar="N",
        help="training batches looked at if the run has measured nothing (default: 8)",
    )

    affinity_ = add(
        "affinity", affinity, help="how alike tasks' networks see images, stage by stage: table and heat maps"
    )
    branch_ = add(
        "branch",
        branch,
        help="find which tasks should share which stages, and write a recipe that trains that tree",
        epilog=(
            "--by rsa     keeps apart tasks whose single-task networks see images differently\n"
            "--by fafs    keeps apart tasks whose networks fail on different images\n"
            "--by tag     groups tasks whose steps help each other, from one joint run trained with\n"
            "             --training.affinity_every 10\n"
            "--by learned takes the tree that a run with encoder learned_branching or bmtas has learned"
        ),
    )
    for found in (affinity_, branch_):
        found.add_argument(
            "runs", type=Path, nargs="+", metavar="RUN", help="runs' folders, or one folder that holds them"
        )
        found.add_argument(
            "--images",
            type=int,
            default=100,
            metavar="K",
            help="how many images of the validation split are looked at (default: 100)",
        )
    affinity_.add_argument(
        "--out",
        type=file,
        default=Path("affinity.html"),
        metavar="FILE",
        help="the HTML page (default: affinity.html)",
    )
    branch_.add_argument(
        "--by",
        choices=("rsa", "fafs", "tag", "learned"),
        default="rsa",
        metavar="WAY",
        help="rsa, fafs, tag or learned (default: rsa)",
    )
    limit = branch_.add_mutually_exclusive_group()
    limit.add_argument(
        "--budget",
        metavar="N",
        help="most parameters of the backbone's copies, as a number or a multiple of the shared network "
        "(default: 1.5x for rsa and fafs)",
    )
    limit.add_argument("--parameters", dest="budget", metavar="N", help="the same as --budget")
    limit.add_argument("--macs", metavar="N", help="most multiply-accumulates of an image, likewise")
    branch_.add_argument(
        "--groups", type=int, metavar="N", help="how many branches the last stage has (default: any number)"
    )
    branch_.add_argument(
        "--out",
        type=file,
        default=Path("branched.yaml"),
        metavar="FILE",
        help="the recipe; a page of the same name draws it (default: branched.yaml)",
    )

    data_ = add("data", lambda parsed: parsed.parser.print_help(), help="check, show or build data")
    kinds = data_.add_subparsers(title="commands", metavar="COMMAND")

    def add_data(name: str, command: Callable[[argparse.Namespace], None], help: str) -> Parser:  # noqa: A002
        made: Parser = kinds.add_parser(name, description=help, help=help)
        made.set_defaults(command=command, parser=made)
        made.add_argument(
            "name",
            choices=plait.list_datasets(),
            metavar="NAME",
            help=f"one of {', '.join(plait.list_datasets())}",
        )
        return made

    def add_root(parser: Parser) -> None:
        parser.add_argument(
            "root", type=Path, nargs="?", metavar="ROOT", help="the data's folder (rooms: the packaged set)"
        )
        parser.epilog = "An option of the data set is given as in a recipe, for instance:  --variant survey"
        parser.set_defaults(takes_overrides="any")

    check = add_data("check", data_check, "is this folder what the loader thinks it is?")
    add_root(check)
    show = add_data("show", data_show, "draw samples with all their labels")
    add_root(show)
    show.add_argument("--split", default="train", metavar="SPLIT", help="which split (default: train)")
    show.add_argument("--samples", type=int, default=6, metavar="N", help="how many samples (default: 6)")
    show.add_argument(
        "--out",
        type=file,
        default=Path("samples.png"),
        metavar="FILE",
        help="the picture (default: samples.png)",
    )
    pack = add_data("pack", data_pack, "store a data set so that reading a sample costs next to nothing")
    add_root(pack)
    pack.add_argument(
        "--out",
        type=folder,
        required=True,
        metavar="DIR",
        help="where it goes; interrupted, it goes on there",
    )
    pack.add_argument(
        "--labels", nargs="+", default=[], metavar="LABEL", help="the labels to keep (default: all)"
    )
    pack.set_defaults(after_stop=["the same command packs what is still missing"])
    build = add_data(
        "build",
        data_build,
        "make the data that can be made: rooms are rendered, nyud is cut from its .mat file",
    )
    build.add_argument(
        "root",
        type=Path,
        nargs="?",
        metavar="SOURCE",
        help="nyud: the folder that holds nyu_depth_v2_labeled.mat, splits.mat and classMapping40.mat",
    )
    build.add_argument(
        "--out",
        type=folder,
        required=True,
        metavar="DIR",
        help="where it goes; an interrupted build goes on there",
    )
    build.add_argument(
        "--processes", type=int, default=2, metavar="N", help="processes of one thread each (default: 2)"
    )
    rooms = build.add_argument_group("rooms")
    rooms.add_argument("--images", type=int, metavar="N", help="how many images (default: 600)")
    rooms.add_argument("--size", type=size, metavar="HxW", help="pixels (default: 192x256)")
    rooms.add_argument(
        "--quality",
        choices=("draft", "default", "fine"),
        metavar="QUALITY",
        help="draft, default or fine (default: default)",
    )
    rooms.add_argument("--seed", type=int, metavar="N", help="another seed gives other rooms (default: 0)")
    nyud = build.add_argument_group("nyud")
    nyud.add_argument(
        "--depth", choices=("inpainted", "raw"), metavar="DEPTH", help="inpainted or raw (default: inpainted)"
    )
    nyud.add_argument(
        "--no-crop", action="store_false", dest="crop", default=None, help="keep the white border"
    )
    build.set_defaults(after_stop=["the same command makes what is still missing"])

    list_ = add("list", list_names, help=f"name what there is: {', '.join(LISTS)}")
    list_.add_argument(
        "what",
        choices=tuple(LISTS),
        nargs="?",
        metavar="WHAT",
        help=f"one of {', '.join(LISTS)} (default: all)",
    )
    return parser


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


def size(text: str) -> tuple[int, int]:
    """Reads ``HxW``.

    >>> size("192x256")
    (192, 256)
    """
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"a size is HEIGHTxWIDTH in pixels, as 192x256; got {text!r}")
    return int(height), int(width)


def folder(text: str) -> Path:
    """Reads a folder that is there or can be made."""
    path = Path(text)
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, but {nearest} is a file: name another place")
    return path


def file(text: str) -> Path:
    """Reads the name of a file whose folder is there or can be made."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file's name, but {path} is a folder: name a file in it")
    folder(str(path.parent))
    return path


def quickstart(parsed: argparse.Namespace) -> None:
    """The main job."""
    from plait.study.quickstart import quickstart

    comparison = quickstart(minutes=parsed.minutes, out=parsed.out, console=console())
    console().print(comparison.table())


def train(parsed: argparse.Namespace) -> None:
    """One run."""
    from plait.config import dump, load_recipe

    path = recipe_path(parsed.recipe)
    recipe = load_recipe(path, parsed.overrides)
    if parsed.show:
        say(dump(recipe))
        return
    from plait.training.fit import train
    from plait.training.memory import keep_freed_memory
    from plait.training.processes import join, leave

    keep_freed_memory()
    out = parsed.out or Path("runs") / path.stem
    trained = train(recipe, out, resume=not parsed.fresh, progress=True)
    if join().is_main_process:
        console().print(trained.scores.table())
        say(f"the run is in {out}")
    leave()


def evaluate(parsed: argparse.Namespace) -> None:
    """Scores of a run, or of maps on disk."""
    if parsed.predictions is not None or parsed.targets is not None:
        evaluate_maps(parsed)
        return
    if parsed.run is None:
        raise ConfigurationError("name a run's folder, or maps on disk with --predictions and --targets")
    for option in ("task", "scoring", "max_distance", "resize", "workers"):
        if getattr(parsed, option):
            raise ConfigurationError(
                f"--{option.replace('_', '-')} is for maps on disk, with --predictions and --targets; "
                f"a run has its own recipe"
            )
    from plait.study.cores import usable_cores
    from plait.training import checkpoint
    from plait.training.memory import keep_freed_memory
    from plait.training.processes import join, leave
    from plait.training.run import RECIPE, load_run
    from plait.training.tuning import idle_threads, threads

    keep_freed_memory()
    run = load_run(parsed.run)
    finished = run.finished
    if not finished and checkpoint.find(run.checkpoint) is None:
        again = shlex.join(["plait", "train", str(run.path / RECIPE), "--out", str(run.path)])
        raise ConfigurationError(f"{run.path} has no checkpoint yet: train it first with `{again}`")
    step, processes = checkpoint.read(run.checkpoint, files=()).step, join()
    cores = max(1, usable_cores() // processes.num_processes)
    bar = progress_bar("evaluating") if processes.is_main_process else nullcontext()
    with threads(idle_threads(cores)), bar as progress:
        scores = run.evaluate(
            parsed.split,
            protocol=parsed.protocol,
            flip=parsed.flip,
            scales=parsed.scales,
            window=parsed.window,
            progress=progress,
        )
    if processes.is_main_process:
        if not finished:
            say(f"this run is not finished: scored at step {step} of {run.recipe.training.steps}")
        console().print(scores.table())
        if parsed.json:
            scores.save(parsed.json)
    leave()


def evaluate_maps(parsed: argparse.Namespace) -> None:
    """Scores of maps that any software has written."""
    from plait.metrics.folders import read_scoring, score_folders

    for option in ("run", "split", "flip", "scales", "window"):
        if getattr(parsed, option):
            raise ConfigurationError(f"{option} is for runs: maps on disk are scored as they are")
    if parsed.predictions is None or parsed.targets is None:
        raise ConfigurationError("maps on disk need both --predictions and --targets")
    scoring = read_scoring(parsed.scoring, parsed.task)
    if parsed.max_distance is not None:
        scoring["measuring"] = {**scoring.get("measuring", {}), "max_distance": parsed.max_distance}
    with progress_bar("scoring") as progress:
        scores = score_folders(
            parsed.predictions,
            parsed.targets,
            protocol=parsed.protocol or "plain",
            resize=parsed.resize,
            workers=parsed.workers,
            progress=progress,
            **scoring,
        )
    console().print(scores.table())
    if parsed.json:
        scores.save(parsed.json)


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


def report(parsed: argparse.Namespace) -> None:
    """Studies reported, or runs compared."""
    from plait.study.status import is_study, study_folder

    studies = [is_study(path) for path in parsed.paths]
    if all(studies):
        report_studies([study_folder(path) for path in parsed.paths], parsed.out)
        return
    if any(studies):
        study, other = (parsed.paths[studies.index(kind)] for kind in (True, False))
        raise ConfigurationError(f"{study} is a study and {other} is none: report them apart")
    from plait.study.report import report

    comparison, path = report(parsed.paths, out=parsed.out)
    console().print(comparison.table())
    say(f"the report is {path}")


def report_studies(folders: Sequence[Path], out: Path | None) -> None:
    """Writes the report of studies, and prints what it says."""
    from plait.study.reporting.report import report_studies

    made = report_studies(folders, out=out)
    for table in made.tables:
        console().print(table)
    say("\n".join([*made.summary, f"the report is {made.page}; beside it: {', '.join(made.others)}"]))


def diagnose(parsed: argparse.Namespace) -> None:
    """What gradients say."""
    from plait.study.diagnosis.page import diagnose

    with progress_bar("taking gradients") as progress:
        found, page = diagnose(parsed.run, out=parsed.out, batches=parsed.batches, progress=progress)
    now = "this run measured no gradients while it trained: they were taken now, at its checkpoint"
    say("\n".join([*([] if found.trained else [now]), *found.sentences(), f"the page is {page}"]))


def affinity(parsed: argparse.Namespace) -> None:
    """How alike tasks are."""
    from plait.study.branching.branch import affinity

    with progress_bar("looking at images") as progress:
        found, page = affinity(parsed.runs, images=parsed.images, out=parsed.out, progress=progress)
    console().print(found.table())
    say("\n".join([*found.notes(), f"the heat maps are {page}"]))


def branch(parsed: argparse.Namespace) -> None:
    """A tree for tasks."""
    from plait.study.branching.branch import branch
    from plait.study.branching.budget import Budget

    budget = None
    if parsed.macs is not None:
        budget = Budget.parse(parsed.macs, "macs")
    elif parsed.budget is not None:
        budget = Budget.parse(parsed.budget)
    with progress_bar("looking at images") as progress:
        found = branch(
            parsed.runs,
            by=parsed.by,
            budget=budget,
            groups=parsed.groups,
            images=parsed.images,
            out=parsed.out,
            progress=progress,
        )
    console().print(found.table())
    say("\n".join([*found.tree.lines(), *found.notes]))
    train_it = shlex.join(["plait", "train", str(found.written)])
    say(f"the recipe is {found.written} (`{train_it}` trains it), the drawing {found.page}")


def data_check(parsed: argparse.Namespace) -> None:
    """What is in a folder."""
    from plait.config import parse_overrides
    from plait.data import check

    if parsed.root is not None and not parsed.root.exists():
        raise DataError(f"{parsed.root}: expected a folder or archive of {parsed.name}, found nothing there")
    found = check(parsed.name, parsed.root, options=dict(parse_overrides(parsed.overrides)))
    say("\n".join(found.lines))
    if not found.good:
        problems = f"{len(found.problems)} problems" if len(found.problems) > 1 else "a problem"
        raise DataError(f"{parsed.name} has {problems}, named above: mend the files or name another folder")


def data_show(parsed: argparse.Namespace) -> None:
    """A picture of samples."""
    from plait.config import parse_overrides
    from plait.data import show

    path = show(
        parsed.name,
        parsed.root,
        split=parsed.split,
        samples=parsed.samples,
        out=parsed.out,
        options=dict(parse_overrides(parsed.overrides)),
    )
    say(f"the picture is {path}")


def data_pack(parsed: argparse.Namespace) -> None:
    """A data set, decoded once."""
    from plait.config import parse_overrides
    from plait.data.packed.pack import pack

    options = dict(parse_overrides(parsed.overrides))
    with progress_bar("packing") as progress:
        pack(parsed.name, parsed.root, parsed.out, labels=parsed.labels, options=options, progress=progress)
    say(f"packed: in a recipe, write `data: {{name: packed, root: {parsed.out}}}`")


def data_build(parsed: argparse.Namespace) -> None:
    """Data, made."""
    own = {"rooms": ("images", "size", "quality", "seed"), "nyud": ("root", "depth", "crop")}
    if parsed.name not in own:
        raise ConfigurationError(f"{parsed.name} cannot be built; {' and '.join(own)} can")
    given = {
        option: getattr(parsed, option)
        for options in own.values()
        for option in options
        if getattr(parsed, option) is not None
    }
    foreign = [option for option in given if option not in own[parsed.name]]
    if foreign:
        raise ConfigurationError(f"{parsed.name} is built without {foreign[0]!r}: leave that out")
    if parsed.name == "rooms":
        from plait.data.rooms.build import build_rooms

        given = {"images": 600, "size": (192, 256), "quality": "default", "seed": 0, **given}
        with progress_bar("rendering rooms") as progress:
            build_rooms(parsed.out, **given, processes=parsed.processes, progress=progress)
        say(f"the rooms are in {parsed.out}")
        return
    from plait.data.nyud.build import build_nyud

    if "root" not in given:
        raise ConfigurationError("nyud is built from its sources: name the folder that holds them")
    with progress_bar("building nyud") as progress:
        build_nyud(given.pop("root"), parsed.out, **given, processes=parsed.processes, progress=progress)
    say(f"the set is in {parsed.out}")


def list_names(parsed: argparse.Namespace) -> None:
    """Names, one a line, or all lists."""
    for title in [parsed.what] if parsed.what else LISTS:
        names = LISTS[title]()
        say("\n".join(names) if parsed.what else f"{title}: {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(main())
