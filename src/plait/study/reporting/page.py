"""A study's report as one HTML page that loads nothing: words, tables, charts and pictures."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from plait import config
from plait.study import pages
from plait.study.analysis import COSTS
from plait.study.charts import heat_cell
from plait.study.comparison import join
from plait.study.diagnosis.findings import Findings
from plait.study.diagnosis.page import parts
from plait.study.report import legend
from plait.study.reporting import arm_tables, reading, score_tables
from plait.study.reporting import gallery as pictures
from plait.study.reporting.curve_figures import balancing, learning, significant
from plait.study.reporting.evidence import table as evidence_table
from plait.study.reporting.figure import Figure, Style, minus, styles
from plait.study.reporting.figures import COST, gain_against, gain_bars, gain_table, rank_figure
from plait.study.reporting.history import History, Matrix, read
from plait.study.reporting.layout import Table
from plait.study.reporting.numbers import GAIN, quantity
from plait.study.reporting.questions import answers
from plait.study.reporting.table_view import View, shown_table
from plait.study.reporting.words import compared, summary

if TYPE_CHECKING:
    from plait.study.analysis import Analysis, Key
    from plait.study.reporting.gallery import Gallery

HERE = Path(__file__).parent
SEVERAL = "Studies compared"


def render(
    analyses: Sequence[Analysis],
    galleries: Sequence[Gallery | None] = (),
    *,
    title: str | None = None,
    again: str | None = None,
) -> str:
    """The page of one study, or of several together.

    Args:
        analyses: What was worked out of each study, one or more.
        galleries: The pictures of each, in the same order; none for a page without pictures.
        title: The heading; None for the study's own.
        again: The command that writes the page again, for its footer.

    Returns:
        The page. It holds all it needs; its rules name its scripts by their hashes, so that a browser runs no
        other.
    """
    from plotly.offline import get_plotlyjs

    drawn = [*galleries, *[None] * (len(analyses) - len(galleries))]
    scripts = {
        "early": "document.documentElement.classList.add('js');",
        "plotly": get_plotlyjs().replace("\r", ""),
        "own": (HERE / "study.js").read_text(encoding="utf-8"),
    }
    several = len(analyses) > 1
    return pages.render(
        "reporting/study.html.j2",
        title=title or (SEVERAL if several else analyses[0].results.title),
        subtitles=[compared(analysis) for analysis in analyses],
        hashes=Markup(" ".join(f"'sha256-{digest(text)}'" for text in scripts.values())),  # base64
        scripts={name: Markup(text) for name, text in scripts.items()},  # this package's own and plotly's
        css=Markup((HERE / "study.css").read_text(encoding="utf-8")),
        sentences=[minus(sentence) for sentence in summary(analyses)],
        answers=[
            {
                "question": answer.question,
                "text": minus(answer.text),
                "table": shown_table(evidence_table(answer)) if answer.evidence else None,
            }
            for answer in answers(analyses)
        ],
        studies=[
            study_view(analysis, gallery, f"s{place}", 3 if several else 2)
            for place, (analysis, gallery) in enumerate(zip(analyses, drawn, strict=True), 1)
        ],
        several=several,
        again=again,
        plotly=importlib.metadata.version("plotly"),
    )


def digest(script: str) -> str:
    """The hash by which a page's rules name a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def study_view(analysis: Analysis, gallery: Gallery | None, prefix: str, level: int) -> View:
    """One study as the template takes it."""
    results = analysis.results
    looks = styles([arm.name for arm in results.arms])
    roles = {arm.name: arm.role for arm in results.arms}
    histories = {arm.name: read(arm, results.tasks) for arm in results.arms if arm.seeds}

    def shown(table: Table | None) -> View | None:
        return None if table is None else shown_table(table, roles)

    ranked = rank_figure(analysis, looks)
    has_gains = score_tables.has(analysis, GAIN)
    return {
        "prefix": prefix,
        "level": level,
        "title": results.title,
        "compared": compared(analysis),
        "arms": [arm_view(name, look) for name, look in looks.items()],
        "roles": list(dict.fromkeys(roles.values())),
        "headline": shown(score_tables.headline(analysis)),
        "measures": [shown(table) for table in score_tables.measures(analysis)],
        "fronts": list(fronts(analysis, looks)),
        "gain_table": shown(gain_table(analysis)) if has_gains else None,
        "bars": [figure_view(figure) for figure in gain_bars(analysis, looks)],
        "ranks": None if ranked is None else figure_view(ranked),
        "pairs": list(pair_views(analysis)),
        "learning": [figure_view(figure) for figure in learning(analysis, histories, looks)],
        "balancing": [figure_view(figure) for figure in balancing(analysis, histories, looks)],
        "balancing_notes": list(balancing_notes(analysis, histories)),
        "maps": list(maps(analysis, histories)),
        "diagnoses": list(diagnoses(histories, prefix, level + 1)),
        "images": [] if gallery is None else pictures.shown(gallery),
        "image_notes": () if gallery is None else gallery.notes,
        "legends": [] if gallery is None else [legend(task) for task in gallery.tasks.values()],
        "costs": shown(arm_tables.costs(analysis)),
        "about_arms": shown(arm_tables.arms(analysis)),
        "alike": results.alike,
        "unlike": results.unlike,
        "published": shown(arm_tables.published(analysis)),
        "facts": reading.facts(results),
        "recipes": [{"name": arm.name, "text": config.dump(arm.recipe)} for arm in results.arms],
    }


# Parts of a study.


def arm_view(name: str, look: Style) -> View:
    """An arm in the key."""
    return {"name": name, "colour": look.colour, "dash": look.dash, "symbol": look.symbol}


def figure_view(figure: Figure) -> View:
    """A chart."""
    return {
        "title": figure.title,
        "alt": figure.alt,
        "height": figure.height,
        "spec": Markup(figure.spec()),  # JSON without any <
        "numbers": None if figure.numbers is None else shown_table(figure.numbers),
    }


def fronts(analysis: Analysis, looks: Mapping[str, Style]) -> Iterator[View]:
    """Relative gain against each cost, with the name that a switch has for it."""
    for cost in COSTS:
        figure = gain_against(analysis, cost, looks)
        if figure is not None:
            yield {"name": cost, "label": COST[cost].head, "figure": figure_view(figure)}


def pair_views(analysis: Analysis) -> Iterator[View]:
    """A table of all pairs for each tested quantity, the mean relative gain first."""
    results = analysis.results
    keys: list[Key] = [GAIN, *reading.headlines(results), *reading.gain_keys(results)[:-1]]
    roles = {arm.name: arm.role for arm in results.arms}
    for key in keys:
        pairs = analysis.comparisons.get(key, ())
        if pairs:
            told = sum(pair.better is not None for pair in pairs)
            words = quantity(results, key).words
            yield {
                "title": f"{words}: {told} of {reading.count(len(pairs), 'pair')} shown to differ",
                "table": shown_table(score_tables.comparisons(analysis, key), roles),
            }


def balancing_notes(analysis: Analysis, histories: Mapping[str, History]) -> Iterator[str]:
    """Which arms had constant weights, and what was not logged."""
    several = [arm.name for arm in analysis.results.arms if arm.networks == 1 and arm.name in histories]
    constant = [name for name in several if histories[name].weight and not histories[name].balances]
    if constant:
        yield f"Weights did not change in {join(constant)}: they are not drawn."
    silent = [name for name in several if not histories[name].weight]
    if silent:
        yield f"No weights were logged by {join(silent)}."
    without = [name for name in several if not histories[name].conflicts]
    if several and len(without) == len(several):
        yield "No arm's balancer takes gradients, so their lengths and conflicts were not logged."
    elif without:
        yield (
            f"Lengths of gradients and conflicts are logged where a balancer takes gradients, which is not "
            f"so in {join(without)}."
        )


def maps(analysis: Analysis, histories: Mapping[str, History]) -> Iterator[View]:
    """Tables of colours: affinities of tasks and cosines of their gradients, an arm each."""
    kinds = (
        ("affinity", "affinity, of row onto column (%): by which part of itself the column's loss falls "
         "after a step on the row alone", 100.0),
        ("cosine", "mean cosine of two tasks' gradients at all shared layers", 1.0),
    )  # fmt: skip
    for name, words, factor in kinds:
        found: dict[str, Matrix] = {arm: getattr(h, name) for arm, h in histories.items() if getattr(h, name)}
        apart = [
            abs(value)
            for matrix in found.values()
            for row, of in matrix.items()
            for column, value in of.items()
            if column != row
        ]
        strongest = max(apart, default=0.0) or 1.0
        for arm, matrix in found.items():
            tasks = list(dict.fromkeys([*matrix, *(task for of in matrix.values() for task in of)]))
            yield {
                "title": f"{arm}: {words}; full colour at ±{significant(factor * strongest)}",
                "names": tasks,
                "rows": [
                    {"name": row, "cells": [cell(matrix, row, c, factor, strongest) for c in tasks]}
                    for row in tasks
                ],
            }


def cell(matrix: Matrix, row: str, column: str, factor: float, strongest: float) -> View:
    """A cell of a table of colours."""
    value = matrix.get(row, {}).get(column, math.nan)
    text = f"{factor * value:.2f}" if math.isfinite(value) else "–"
    if not any(digit in text for digit in "123456789"):  # -0.001 is shown as 0.00
        value, text = 0 * value, text.removeprefix("-")
    return dict(heat_cell(value, text, strongest=strongest))


def diagnoses(histories: Mapping[str, History], prefix: str, level: int) -> Iterator[View]:
    """What each arm's first seed measured of its gradients, where it did."""
    for place, (arm, history) in enumerate(histories.items(), 1):
        if history.gradients is None:
            continue
        run, log = history.gradients
        found = Findings(
            tasks=tuple(task.name for task in run.tasks),
            log=[line for line in log if "loss" in line],
            lines=[line for line in log if "gradients" in line],
            trained=True,
        )
        part = parts(run, found, prefix=f"{prefix}-gradients-{place}", level=level)
        # Made by a template that escapes.
        yield {"arm": arm, "section": Markup(pages.render("diagnosis/section.html.j2", **part))}
