"""A study's report as Markdown, CSV, Parquet and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from plait.study.analysis import Analysis
from plait.study.reporting import arm_tables, evidence, reading, score_tables, tidy, words
from plait.study.reporting import latex as in_latex
from plait.study.reporting.layout import Cell, Table
from plait.study.reporting.numbers import GAIN
from plait.study.reporting.questions import answers


def csv(analysis: Analysis) -> str:
    """All numbers, unrounded, one a line: study, arm, task and measure; see :class:`.tidy.Row`."""
    return tidy.csv_text(analysis)


def comparisons_csv(analysis: Analysis) -> str:
    """Every tested pair of arms, one a line."""
    return tidy.comparisons_csv(analysis)


def parquet(analysis: Analysis) -> bytes:
    """The rows of :func:`csv` as a Parquet file, with a row more for each seed."""
    return tidy.parquet_bytes(analysis)


def latex(analysis: Analysis) -> str:
    r"""The headline table and the table of costs, for ``\usepackage{booktabs}``."""
    return in_latex.tables(analysis)


def markdown(analyses: Sequence[Analysis]) -> str:
    """The whole report in GitHub's Markdown: one study, or several under what they say together."""
    title = analyses[0].results.title if len(analyses) == 1 else "Studies compared"
    parts = [f"# {escape(title)}"]
    parts += [f"{escape(words.compared(analysis))}." for analysis in analyses]
    parts += ["## In short", bullets(words.summary(analyses)), "## The survey's questions"]
    for answer in answers(analyses):
        parts += [f"### {answer.question}", escape(answer.text)]
        if answer.evidence:
            parts.append(grid(evidence.table(answer)))
    for analysis in analyses:
        if len(analyses) > 1:
            parts.append(f"## {escape(analysis.results.title)}")
        parts += sections(analysis, "##" if len(analyses) == 1 else "###")
    return "\n\n".join(parts) + "\n"


def sections(analysis: Analysis, level: str) -> Iterator[str]:
    """The sections of one study, under headings of a level."""
    results = analysis.results
    yield from section(f"{level} What was compared", arm_tables.arms(analysis))
    yield from section(f"{level} Scores", score_tables.headline(analysis))
    yield f"{level} Every measure"
    yield (
        "Mean ± standard deviation over seeds, and in brackets the 95 % interval of the mean, each arm by "
        "itself."
    )
    for table in score_tables.measures(analysis):
        yield from section(f"{level}# {escape(table.title)}", table)
    yield from differences(analysis, level)
    for heading, found in (
        ("What it costs", arm_tables.costs(analysis)),
        ("Ranks", score_tables.ranks(analysis)),
    ):
        if found is not None:
            yield from section(f"{level} {heading}", found)
    for heading, said in (("What was alike", results.alike), ("What was not alike", results.unlike)):
        if said:
            yield from (f"{level} {heading}", bullets(said))
    papers = arm_tables.published(analysis)
    if papers is not None:
        yield from section(f"{level} What papers report", papers)
    yield f"{level} How it was made"
    yield "\n".join(f"- {escape(what)}: {escape(value)}" for what, value in reading.facts(results))


def differences(analysis: Analysis, level: str) -> Iterator[str]:
    """All pairs in the mean relative gain, and in each headline measure those that were told apart."""
    if not analysis.comparisons:
        return
    yield f"{level} Which differences were shown"
    yield (
        "Paired tests on the same seeds and test images, corrected by Holm for all pairs of a quantity. "
        "The intervals are not corrected."
    )
    if analysis.comparisons.get(GAIN):
        table = score_tables.comparisons(analysis, GAIN)
        yield from section(f"{level}# {escape(table.title)}", table)
    for key in reading.headlines(analysis.results):
        if not analysis.comparisons.get(key):
            continue
        every = score_tables.comparisons(analysis, key)
        shown = score_tables.comparisons(analysis, key, shown=True)
        yield f"{level}# {escape(every.title)}"
        left = len(every.rows) - len(shown.rows)
        pairs = reading.count(len(every.rows), "pair was", "pairs were")
        silent = " and not listed" if left and shown.rows else ""
        yield f"{pairs} compared; {left} of them not told apart{silent}."
        if shown.rows:
            yield grid(shown)
            yield bullets(shown.notes)


def section(heading: str, table: Table) -> Iterator[str]:
    """A heading, a table and how to read it."""
    yield heading
    yield grid(table)
    if table.notes:
        yield bullets(table.notes)


def bullets(said: Sequence[str]) -> str:
    """A list, a sentence an item."""
    return "\n".join(f"- {escape(text)}" for text in said)


def grid(table: Table) -> str:
    """A table in GitHub's Markdown."""
    heads = [
        f"{column.group}<br>{column.title}" if column.group else column.title for column in table.columns
    ]
    rows = [
        [escape(head).replace("&lt;br>", "<br>") for head in heads],
        ["---:" if column.numeric else "---" for column in table.columns],
        *([cell(one) for one in row] for row in table.rows),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(one: Cell) -> str:
    """A cell; bold is the mean alone, as the spread is no part of what was tested."""
    mean, separator, rest = one.text.partition(" ± ")
    text = f"**{escape(mean)}**" if one.bold else escape(mean)
    return f"{text}{separator}{escape(rest)}{f' {one.mark}' if one.mark else ''}"


def escape(text: str) -> str:
    r"""Text that Markdown prints as it stands, in a table too.

    An underscore inside a word means nothing there and stays readable.

    >>> escape("mti_net | *a* <b>"), escape("_a_")
    ('mti_net \\| \\*a\\* &lt;b>', '\\_a\\_')
    """
    found = re.sub(r"([\\`*\[\]|~])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", found)
