"""A branched tree found on the packaged rooms by each search, drawn and trained.

``python benchmarks/rooms_trees.py --runs runs/architectures --out runs/trees`` takes the single-task runs and
those with learned structures from ``benchmarks/rooms_architectures.py``, trains one joint run for TAG, lets
``plait branch`` find a tree by each search, trains each recipe with the same number of steps, and writes
``docs/results/trees.md`` with its drawings. Started again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rooms_architectures import TASKS, arms, compared, replaced, train

from plait.config import load_recipe, replace
from plait.study.branching.branch import Branching, branch
from plait.study.branching.budget import Budget
from plait.study.branching.drawing import tree_svg

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURES = DOCS / "results" / "trees.md", DOCS / "images" / "trees"
SINGLES = tuple(f"single_{task}" for task in TASKS)
SEARCHES: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "rsa": (
        "rsa",
        SINGLES,
        "representation similarity of single-task networks",
    ),
    "fafs": ("fafs", SINGLES, "FAFS, on the errors of single-task networks"),
    "learned branching": ("learned", ("learned_branching",), "learning to branch: the more likely parents"),
    "bmtas": ("learned", ("bmtas",), "BMTAS: the more likely copies"),
    "tag": ("tag", ("joint",), "TAG: inter-task affinity during joint training, two groups"),
}
STYLE = (
    "<style>svg{background:#fbfbf9;font:13px system-ui,sans-serif}rect{fill:#efeee9;stroke:#1d5b8a;"
    "stroke-width:1.5}.branch{fill:none;stroke:#555;stroke-width:1.8}.task{font-weight:600}</style>"
)


def picture(found: Branching, name: str) -> str:
    """Draws the tree for the page; returns the Markdown that shows it."""
    svg = tree_svg(found.tree).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    start = svg.index(">") + 1
    path = PICTURES / f"{name.replace(' ', '_')}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg[:start] + STYLE + svg[start:] + "\n")
    return f"![The tree found by {name}](../images/trees/{path.name})"


def main() -> None:
    """Searches, draws, trains, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/architectures"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/trees"), metavar="DIR")
    parser.add_argument("--steps", type=int, default=120, metavar="N")
    parsed = parser.parse_args()
    parsed.out.mkdir(parents=True, exist_ok=True)
    shared = arms(parsed.steps)["shared"]
    print(train("joint", replace(shared, {"training.affinity_every": 5}), parsed.out), flush=True)
    sections, chosen = [], {}
    for name, (by, runs, told) in SEARCHES.items():
        folders = [(parsed.out if run == "joint" else parsed.runs) / run for run in runs]
        budget = Budget("macs", 1.5) if by in ("rsa", "fafs") else None
        found = branch(
            folders,
            by=by,
            budget=budget,
            groups=2 if by == "tag" else None,
            out=parsed.out / f"{name.replace(' ', '_')}.yaml",
        )
        chosen[name] = load_recipe(found.written)
        limit = "" if budget is None else ", at most 1.5 times the multiply-accumulates of one backbone"
        tree = "\n".join(found.tree.lines())
        sections.append(f"## {name}\n\nBy {told}{limit}.\n\n{picture(found, name)}\n\n```text\n{tree}\n```\n")
    with ThreadPoolExecutor(2) as pool:
        for line in pool.map(lambda pair: train(*pair, parsed.out / "trained"), chosen.items()):
            print(line, flush=True)
    shown = [parsed.out / "trained", *(parsed.runs / run for run in (*SINGLES, "shared", "separate"))]
    PAGE.write_text(
        replaced(replaced(PAGE.read_text(), "table", compared(shown, parsed.steps)), "trees", sections)
    )


if __name__ == "__main__":
    main()
