"""Writes the tables of docs/results/balancing.md from what benchmarks have measured.

``python docs/balancers.py``, after ``benchmarks/balancers.py`` or ``benchmarks/balancing_cost.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import plait

PAGE = Path(__file__).parent / "results" / "balancing.md"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
COLUMNS = {
    "ddp": "two processes",
    "fp16": "loss scale",
    "absent": "missing labels",
    "resume": "resume",
    "features": "features",
}


def strategies() -> Iterator[str]:
    """Rows of Markdown: a line a strategy, with TorchJD's answer behind a stroke."""
    kept = json.loads((BENCHMARKS / "balancers.json").read_text())
    yield (
        f"`python benchmarks/balancers.py` on {machine(kept)}. Of two answers the second is TorchJD's; a "
        f"single one is ours, where TorchJD does not have the strategy."
    )
    yield ""
    heads = ["strategy", "worst error", "in float32", "TorchJD's, and where above 1%", *COLUMNS.values()]
    yield f"| {' | '.join(heads)} | step, T=4 | at features |"
    yield f"|---|---:|---:|---|{'---|' * len(COLUMNS)}---:|---:|"
    for name in plait.list_balancers():
        if (rule := kept["rules"].get(name)) is None:
            continue
        exact, works, cost = rule["exactness"], rule["works"], rule.get("cost") or {}
        cells = [worst(exact["float64"]), worst(exact["float32"]), theirs(exact)]
        for key in COLUMNS:
            pair = [answers[key] for answers in works.values()]
            cells.append(pair[0] if set(pair) == {"–"} else " / ".join(pair))
        ratios = [cost.get("ours"), cost.get("theirs")]
        cells.append(" / ".join(f"{ratio:.2f}" for ratio in ratios if ratio is not None) or "–")
        features = cost.get("features")
        cells.append("–" if features is None else f"{features:.2f}")
        yield f"| `{name}` | {' | '.join(cells)} |"


def worst(errors: Mapping[str, float | None]) -> str:
    """The largest of some errors."""
    largest = max((error for error in errors.values() if error is not None), default=math.nan)
    return "exact" if largest == 0 else f"{largest:.0e}"


def theirs(exact: Mapping[str, Any]) -> str:
    """TorchJD's worst error; if it is large, on which kinds of problems and how often."""
    found = exact["torchjd"]
    if isinstance(found, str):
        return found
    bad = [kind for kind, error in found.items() if error is not None and error > 1e-2]
    if not bad:
        return worst(found)
    largest = max(found[kind] for kind in bad)
    percent = "fails" if math.isinf(largest) else f"{100 * largest:.0f}%"
    return f"{percent}: {', '.join(bad)} ({100 * exact['torchjd_above_percent']:.0f}% of steps)"


def costs() -> Iterator[str]:
    """Rows of Markdown from what benchmarks/balancing_cost.py measured."""
    sys.path.append(str(BENCHMARKS))
    from balancing_cost import table

    kept = json.loads((BENCHMARKS / "balancing_cost.json").read_text())
    yield f"`python benchmarks/balancing_cost.py` on {machine(kept)}:"
    yield ""
    yield from table(kept)


def machine(kept: Mapping[str, Any]) -> str:
    """One thread of which processor, and which versions."""
    about = kept["about"]
    versions = ", ".join(f"{part} {about[part]}" for part in ("torch", "torchjd") if part in about)
    return f"one thread of an {about['processor']}, {versions}"


TABLES = {"strategies": strategies, "costs": costs}


def written(page: str) -> str:
    """The page with its generated parts made anew; they stand between two comments each."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n" + "\n".join(table()) + f"\n\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(written(PAGE.read_text()))
