r"""Tables in LaTeX, in the survey's layout; ``\usepackage{booktabs}`` is all that they need."""

from __future__ import annotations

import re
from itertools import groupby

from plait.study.analysis import Analysis
from plait.study.reporting import reading
from plait.study.reporting.arm_tables import costs
from plait.study.reporting.layout import BETTER, WORSE, Cell, Column, Table
from plait.study.reporting.numbers import GAIN, quantity
from plait.study.reporting.score_tables import headline

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "''",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "°": r"$^\circ$",
    "²": r"$^2$",
    "³": r"$^3$",
    "δ": r"$\delta$",
    "Δ": r"$\Delta$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    BETTER: "$^{+}$",
    WORSE: "$^{-}$",
}
"""Characters that LaTeX reads otherwise, or that its standard fonts lack."""


def escaped(text: str) -> str:
    r"""Text that LaTeX prints as it stands; a hyphen before a digit at a word's start becomes a minus.

    >>> print(escaped("mti_net & -1.4 %"))
    mti\_net \& $-$1.4 \%
    """
    joined = " ".join(text.split())
    minus = re.sub(r"(?<![\w.])-(?=\d)", "−", joined)
    return "".join(SPECIAL.get(character, character) for character in minus)


def tables(analysis: Analysis) -> str:
    """The headline table and the table of costs."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", analysis.results.study.name).strip("-") or "study"
    parts = [table(with_gain_intervals(analysis, headline(analysis)), analysis.results.title, f"tab:{name}")]
    cost = costs(analysis)
    if cost is not None:
        parts.append(table(cost, analysis.results.title, f"tab:{name}-cost"))
    return "\n".join([r"% \usepackage{booktabs}", *parts])


def with_gain_intervals(analysis: Analysis, made: Table) -> Table:
    """The headline table with one more column: the 95 % interval of the mean relative gain."""
    head = quantity(analysis.results, GAIN).head
    places = [place for place, column in enumerate(made.columns) if column.title == head]
    if not places:
        return made
    after = places[0] + 1
    column = Column(title="95 % interval")
    return Table(
        title=made.title,
        columns=(*made.columns[:after], column, *made.columns[after:]),
        rows=tuple(
            (*row[:after], Cell(text=row[after - 1].interval or "–"), *row[after:]) for row in made.rows
        ),
        names=made.names,
        notes=made.notes,
    )


def table(made: Table, title: str, label: str) -> str:
    """One table with its caption."""
    notes = " ".join(escaped(note) for note in made.notes)
    layout = "".join("r" if column.numeric else "l" for column in made.columns)
    lines = [
        r"\begin{table}",
        r"\centering",
        r"\small",
        rf"\caption{{{escaped(reading.titled(title, made.title))}. {notes}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        *group_heads(made),
        " & ".join(escaped(column.title) for column in made.columns) + r" \\",
        r"\midrule",
        *(" & ".join(cell(one) for one in row) + r" \\" for row in made.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def group_heads(made: Table) -> list[str]:
    """The line above the heads: tasks."""
    groups = [(name, len(list(found))) for name, found in groupby(made.columns, key=lambda c: c.group)]
    if not any(name for name, _ in groups):
        return []
    cells = [
        " & ".join([""] * width) if not name else rf"\multicolumn{{{width}}}{{r}}{{{escaped(name)}}}"
        for name, width in groups
    ]
    return [" & ".join(cells) + r" \\"]


def cell(one: Cell) -> str:
    r"""A cell; bold is the mean alone, as the spread is no part of what was tested."""
    mean, *spread = one.text.split(" ± ")
    text = rf"\textbf{{{escaped(mean)}}}" if one.bold else escaped(mean)
    if spread:
        text += rf" $\pm$ {escaped(spread[0])}"
    return text + (escaped(one.mark) if one.mark else "")
