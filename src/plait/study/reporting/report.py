"""From studies' folders to their report: one HTML page, and Markdown, CSV, Parquet and LaTeX beside it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plait.errors import ConfigurationError
from plait.study.analysis import Analysis, analyse
from plait.study.reporting import gallery, page, score_tables, tables, words
from plait.study.reporting.layout import Table
from plait.study.results import load_results
from plait.training.checkpoint import explained_full_disk, write_atomically

if TYPE_CHECKING:
    from rich.table import Table as Printed


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written.

    Attributes:
        analyses: What it says, a study each.
        page: The HTML page.
        others: The names of the files beside it.
    """

    analyses: tuple[Analysis, ...]
    page: Path
    others: tuple[str, ...]

    @property
    def summary(self) -> list[str]:
        """What the numbers say, in plain words."""
        return words.summary(self.analyses)

    @property
    def tables(self) -> list[Printed]:
        """The headline table of each study, for a terminal."""
        return [printed(score_tables.headline(analysis)) for analysis in self.analyses]


def report_studies(
    folders: Sequence[Path], *, out: Path | None = None, images: int = 4, pictures: bool = True
) -> Report:
    """Writes the report of a study, or of several together, from what is finished of them.

    Args:
        folders: The studies' folders.
        out: The HTML file; None for ``report.html`` in the study's folder, or in the one that holds several.
            The others have its name and their own endings, of several studies also the study's name.
        images: How many test images are shown, beside the best and the worst for each task.
        pictures: Draw predictions at all; it takes longer than everything else.

    Raises:
        ConfigurationError: If nothing is finished, or ``out`` is no HTML file.
        DataError: If a folder holds no study, or runs were scored on different images.
        DiskFullError: If the disk is full.
    """
    where = [folder.resolve() for folder in folders]
    out = out or Path(os.path.relpath(os.path.commonpath(where))) / "report.html"
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigurationError(
            f"the report is an HTML page: give --out a name that ends in .html, got {out}"
        )
    analyses = tuple(analyse(load_results(folder)) for folder in folders)
    drawn = [gallery.draw(a.results, images=images) for a in analyses] if pictures else []
    again = ["plait", "report", *(os.path.relpath(folder, out.parent) for folder in folders)]
    text = page.render(analyses, drawn, again=shlex.join([*again, "--out", out.name]))
    files = dict(beside(out, analyses))
    with explained_full_disk(f"the report in {out.parent}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text)
        for path, content in files.items():
            write_atomically(path, content)
    return Report(analyses=analyses, page=out, others=tuple(path.name for path in files))


def beside(out: Path, analyses: Sequence[Analysis]) -> Iterator[tuple[Path, str | bytes]]:
    """The files beside the page."""
    yield out.with_suffix(".md"), tables.markdown(analyses)
    for analysis in analyses:
        which = f"-{analysis.results.study.name}" * (len(analyses) > 1)
        yield out.with_name(f"{out.stem}{which}.csv"), tables.csv(analysis)
        yield out.with_name(f"{out.stem}{which}-comparisons.csv"), tables.comparisons_csv(analysis)
        yield out.with_name(f"{out.stem}{which}.parquet"), tables.parquet(analysis)
        yield out.with_name(f"{out.stem}{which}.tex"), tables.latex(analysis)


def printed(table: Table) -> Printed:
    """A table for a terminal."""
    from rich.table import Table as Printed
    from rich.text import Text

    made = Printed(title=table.title, title_justify="left", caption="\n".join(table.notes) or None)
    made.caption_justify = "left"
    for column in table.columns:
        head = f"{column.group} {column.title}".strip()
        made.add_column(head, justify="right" if column.numeric else "left", overflow="fold")
    for row in table.rows:
        made.add_row(*(Text(f"{c.text}{c.mark}", style="bold" if c.bold else "") for c in row))
    return made
