"""``plait report``: studies reported, or runs compared."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from plait.commands.base import Commands, console, file, say
from plait.errors import ConfigurationError


def add(commands: Commands) -> None:
    """Declares the command."""
    report_ = commands.add(
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
