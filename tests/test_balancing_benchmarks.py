"""The benchmarks of the balancers run, on problems that take a moment, and their page can be made anew."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import plait

ROOT = Path(__file__).parents[1]
SMALL = {"width": 2, "size": 16, "batch": 2}


def load(path: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script as a module; its neighbours can be imported."""
    monkeypatch.syspath_prepend(str((ROOT / path).parent))
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_costs_become_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("benchmarks/balancing_cost.py", monkeypatch)
    monkeypatch.setattr(script, "keep_freed_memory", lambda: True)
    names = [name for name, variant in script.VARIANTS.items() if not variant.solvers]
    cells = {name: script.measured(name, 2, 0 if name == "plain" else 3, **SMALL) for name in names}
    kept = {"about": script.about(), "lacking": {"loop": "needs"}, "tasks": {"2": script.summary(cells)}}
    lines = list(script.table(json.loads(json.dumps(kept))))
    assert len(lines) == 2 + len(names) + 1
    assert all(line.count("|") == 4 for line in lines)


def test_a_loop_of_torchjd_s_trains_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the mean for a rule, the peers' steps give the encoder the plain gradient over T."""
    script = load("benchmarks/balancing_cost.py", monkeypatch)
    from torchjd.aggregation import Mean, MeanWeighting

    monkeypatch.setattr(script.torchjd.aggregation, "UPGrad", Mean)
    monkeypatch.setattr(script.torchjd.aggregation, "UPGradWeighting", MeanWeighting)
    found = {}
    for name in ("plain", "torchjd chunk 1", "loop"):
        network = script.Network(2, **SMALL).train()
        script.VARIANTS[name].step(network, torch.optim.SGD(network.parameters(), lr=0.0))()
        found[name] = [parameter.grad for parameter in network.encoder.parameters()]
    for name in ("torchjd chunk 1", "loop"):
        for theirs, plain in zip(found[name], found["plain"], strict=True):
            torch.testing.assert_close(2 * theirs, plain, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", plait.list_balancers())
def test_every_strategy_agrees_with_its_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("benchmarks/balancers.py", monkeypatch)
    for kind in script.KINDS:
        steps = script.problems(kind, 3, seed=5)
        assert max(script.our_errors(name, steps, torch.float64), default=0.0) <= 1e-6
        assert max(script.our_errors(name, steps, torch.float32), default=0.0) <= 1e-4


def test_errors_of_peers_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("benchmarks/balancers.py", monkeypatch)
    found = script.exactness("mgda", [3], seeds=1)
    assert found["torchjd"]["zero row"] > 0.01
    assert 0 < found["torchjd_above_percent"] < 1
    assert script.exactness("log_sum", [2], seeds=1)["torchjd"] == "–"
    assert script.theirs_work("dwa")["resume"] == "no"
    assert script.theirs_work("mgda") == dict.fromkeys(("fp16", "absent", "resume", "features"), "yes")


def test_a_rule_that_fails_is_said_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("benchmarks/balancers.py", monkeypatch)
    assert script.ours_at_features("mgda") == "yes"
    assert script.ours_at_features("moco") == "no"
    assert script.ours_at_features("gls") == "–"

    def broken(*_: object) -> None:
        raise AssertionError

    assert script.passes(broken, "mgda") == "no"
    assert not script.same([torch.ones(2)], [torch.tensor([1.0, 1.1])])
    assert script.quietly(lambda: [][0]) is None


def test_a_cost_is_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("benchmarks/balancers.py", monkeypatch)
    found = script.cost("mgda", 2, 3, **SMALL)
    assert found.ours > 0
    assert found.features > 0
    assert found.theirs > 0


@pytest.mark.slow
def test_two_processes_are_compared_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("benchmarks/balancers.py", monkeypatch)
    found = script.processes_agree(["gls", "mgda"])
    assert found == {name: {"ours": "yes", "theirs": "no"} for name in ("gls", "mgda")}


def test_the_page_s_tables_are_those_of_the_kept_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("docs/balancers.py", monkeypatch)
    page = script.PAGE.read_text()
    assert script.written(page) == page
