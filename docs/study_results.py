"""Writes the reports of the rooms' studies into docs/results, and their tables into the README.

    python docs/study_results.py studies/rooms-architectures studies/rooms-balancing

Each folder is a finished study. The page, Markdown, CSV, Parquet and LaTeX files get the study's name.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from plait.study.reporting import score_tables, tables
from plait.study.reporting.report import Report, report_studies

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
IMAGES = 2
"""Test images shown beside the best and the worst of each task."""


def main(folders: list[Path]) -> None:
    for folder in folders:
        name = folder.resolve().name
        report = report_studies([folder], out=DOCS / "results" / f"{name}.html", images=IMAGES)
        page = report.page.with_suffix(".md")
        page.write_text(with_links(page.read_text(encoding="utf-8"), name), encoding="utf-8")
        between(name, readme_table(report))


def with_links(text: str, name: str) -> str:
    """The Markdown report with a line below its heading that says how to get it again, and where more is."""
    heading, _, rest = text.partition("\n")
    kinds = (".html", ".csv", "-comparisons.csv", ".parquet", ".tex")
    files = ", ".join(f"[{name}{kind}]({name}{kind})" for kind in kinds)
    study = name.replace("-", "/", 1)
    return (
        f"{heading}\n\n`plait study run recipes/{study}.yaml` makes this page anew. The whole report, with "
        f"figures and pictures, is one HTML file; the numbers are beside it: {files}.\n{rest}"
    )


def readme_table(report: Report) -> str:
    """The headline table, and what the study says in short."""
    (analysis,) = report.analyses
    table = score_tables.headline(analysis)
    return f"{tables.grid(table)}\n\n{table.notes[0]} {report.summary[0]}"


def between(name: str, text: str) -> None:
    """Puts a text between the README's marks of a study."""
    old = README.read_text(encoding="utf-8")
    marks = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    assert re.search(marks, old, flags=re.DOTALL), f"{README} has no marks of {name}"
    new = re.sub(marks, lambda m: f"{m[1]}{text}\n{m[2]}", old, flags=re.DOTALL)
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
