"""Writes the tables of docs/recipes.md from the recipes themselves.

Run it after a change to a recipe: ``python docs/recipes.py``.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from pathlib import Path

import plait.tasks
from plait.config import Published, Recipe, load_recipe, named
from plait.recipes import recipes

PAGE = Path(__file__).parent / "recipes.md"
TABLES = {
    "nyud": ("nyud/*", ("semantic", "depth")),
    "pascal_context": ("pascal_context/*", ("semantic", "parts", "saliency", "normals", "edges")),
    "cityscapes": ("cityscapes/*", ()),
}
"""Which recipes a table has, and the columns of scores."""
KINDS = ("single", "mtl", "cross_stitch", "nddr_cnn", "mtan", "jtrl", "pap_net", "pad_net", "mti_net")
"""How recipes' names begin, in the order of the survey's tables."""


def known(names: str) -> dict[str, Recipe]:
    """The recipes whose names match."""
    found = {name: load_recipe(path) for name, path in recipes().items() if fnmatch.fnmatch(name, names)}
    return dict(sorted(found.items(), key=lambda item: order(*item)))


def order(name: str, recipe: Recipe) -> tuple[bool, bool, bool, int, int, str]:
    """As in the survey's tables: ResNets, then HRNet; of each, single-task networks first, balancing last."""
    stem = name.partition("/")[2].removeprefix("two_").removeprefix("19_").removeprefix("three_")
    kind = next(place for place, start in enumerate(KINDS) if stem.startswith(start))
    tasks = len([task for task in recipe.tasks.values() if not task.get("auxiliary")])
    balanced = named(recipe.balancer)[0] not in ("equal", "fixed")
    return "hrnet" in name, balanced, kind > 0, -tasks, kind, name


def row(name: str, recipe: Recipe, columns: tuple[str, ...]) -> str:
    """A recipe as a row of Markdown: its training, then what a paper prints."""
    cells = [f"`{name.partition('/')[2]}`", training(recipe)]
    if columns:
        published = recipe.published or Published(source="")
        printed = {task: next(iter(scores.values())) for task, scores in published.scores.items()}
        gain = published.relative_gain
        cells += [f"{printed[t]:.{3 if t == 'depth' else 1}f}" if t in printed else "–" for t in columns]
        cells.append("–" if gain is None else f"{gain:+.2f}" if gain else "0")
        cells += ["–" if n is None else f"{n:g}" for n in (published.parameters, published.flops)]
        cells.append(marks(published))
    return f"| {' | '.join(cells)} |"


def training(recipe: Recipe) -> str:
    """Optimizer, learning rate, batch size and updates."""
    name = {"adam": "Adam", "sgd": "SGD"}[recipe.optimizer.name]
    return f"{name} {recipe.optimizer.lr:g}, {recipe.training.batch_size}, {recipe.training.steps}"


def marks(published: Published) -> str:
    """Where numbers are from and what is to be minded, in a letter each."""
    source = "F" if "first release" in published.source else "S"
    return " ".join([source, *["C"] * published.copied, *["?"] * (published.uncertain is not None)])


def table(key: str) -> Iterator[str]:
    """Lines of Markdown."""
    pattern, columns = TABLES[key]
    found = known(pattern)
    heads = ["recipe", "optimizer and rate, batch, updates"]
    if columns:
        some = next(recipe for recipe in found.values() if set(columns) <= set(recipe.tasks))
        headline = {
            task.name: task.scored(some.evaluation.protocol).headline
            for task in plait.tasks.parse(some.tasks)
        }
        heads += [f"{task}, {headline[task].title}" for task in columns]
        heads += ["gain (%)", "parameters (M)", "FLOPs (G)", "mind"]
    yield f"| {' | '.join(heads)} |"
    yield f"|---|---|{'---:|' * (len(heads) - 3)}---|" if columns else "|---|---|"
    for name, recipe in found.items():
        yield row(name, recipe, columns)


def written(page: str) -> str:
    """The page with its tables made anew; each stands between two comments."""
    for key in TABLES:
        begin, end = f"<!-- {key}: generated -->\n", f"<!-- {key}: end -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}\n" + "\n".join(table(key)) + f"\n\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
