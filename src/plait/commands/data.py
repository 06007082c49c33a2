"""``plait data``: data checked, shown, stored and made."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import plait
from plait.commands.base import Commands, Parser, file, folder, progress_bar, say, size
from plait.errors import ConfigurationError, DataError


def add(commands: Commands) -> None:
    """Declares the command."""
    data_ = commands.add("data", lambda parsed: parsed.parser.print_help(), help="check, show or build data")
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
    check.add_argument(
        "--recipe",
        type=file,
        metavar="FILE",
        help="folder: also write the recipe that is proposed there, to look at and to train",
    )
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


def data_check(parsed: argparse.Namespace) -> None:
    """What is in a folder."""
    from plait.config import parse_overrides
    from plait.data import check

    if parsed.root is not None and not parsed.root.exists():
        raise DataError(f"{parsed.root}: found nothing there; name a folder or archive of {parsed.name}")
    options = dict(parse_overrides(parsed.overrides))
    if parsed.recipe is not None and parsed.name != "folder":
        raise ConfigurationError(
            f"--recipe is for folder: `plait list recipes` names those for {parsed.name}"
        )
    found = check(parsed.name, parsed.root, options=options)
    say("\n".join(found.lines))
    if parsed.recipe is not None:
        write_recipe(parsed.root, parsed.recipe, options)
    if not found.good:
        problems = f"{len(found.problems)} problems" if len(found.problems) > 1 else "a problem"
        raise DataError(f"{parsed.name} has {problems}, named above: mend the files or name another folder")


def write_recipe(root: Path | None, path: Path, options: Mapping[str, Any]) -> None:
    """Writes the recipe that is proposed for a folder."""
    from plait.data.folder.dataset import Folder
    from plait.training.checkpoint import write_atomically

    proposal = Folder.proposal(root, **options)
    if proposal is None:
        raise ConfigurationError(
            f"{root} declares its labels already, so no recipe is proposed: write one with "
            f"`data: {{name: folder, root: {root}}}` and the tasks"
        )
    if path.exists() and path.read_text(encoding="utf-8") != proposal.yaml:
        raise ConfigurationError(f"{path} is there already: name another file for the recipe, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, proposal.yaml)
    say(f"the recipe is {path}: go through its `# check:` lines, then `plait train {path}`")


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
