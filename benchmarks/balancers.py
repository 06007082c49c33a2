"""Every balancing strategy, beside TorchJD's where it has it: how exact it is, what works, what it costs.

    python benchmarks/balancers.py [--only NAME ...] [--seeds 2] [--no-cost]

*Exact*: the worst error of the direction over problems of seven kinds (plain, conflicting, lengths from 1 to
10,000, correlated, rank-deficient, with a duplicate row, with a row of zeros) and two to eight tasks, each a
sequence of three steps so that memories count. Answers are those of ``balancer_references.py``, in float64.
An error is relative to the direction, or to a hundredth of the longest weighted gradient if that is longer.
Ours is measured with its length; TorchJD's up to a positive factor, because sums and means are conventions.
TorchJD gets float64 and its defaults, or our value where it has none.

*Works*: small runs, here, of either library. Two processes give the update of one; a loss scale of float16
training is taken out; a task without labels is left out and the others' memory lives on; a restored rule goes
on bit by bit; gradients can be taken at features.

*Cost*: CPU time of a whole step over the plain summed loss, as in ``balancing_cost.py``, with four tasks.

Writes ``benchmarks/balancers.json``, of which ``docs/balancers.py`` makes the table. Some of TorchJD's rules
need solvers: ``pip install "torchjd[full]"``.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import balancing_cost
import torch
import torch.distributed as dist
from balancer_references import (
    RATE,
    REFERENCES,
    Reference,
    Step,
    UndefinedError,
    famo,
    modo,
    problems,
    projected,
)
from torch import Tensor, nn

import plait
from plait.balancing import Balancer, Observation, Probe, untouched
from plait.errors import ConfigurationError
from plait.testing.balancers import (
    NAMES,
    Toy,
    Traits,
    a_loss_scale_is_taken_out,
    a_restored_rule_goes_on_as_if_nothing_had_been,
    an_absent_task_is_left_out,
)
from plait.training.distributed import reduce_gradients, reduce_sum
from plait.training.memory import keep_freed_memory

DATA = Path(__file__).with_suffix(".json")
KINDS = ("plain", "conflicting", "scaled", "correlated", "deficient", "duplicate", "zero row")
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "fairgrad": {"alpha": 2.0},  # the authors' choice
    "stch": {"warm_up_epochs": None},  # the paper's formula
}
RANDOM = ("rlw", "pcgrad", "gradvac", "graddrop")


def names_of(tasks: int) -> list[str]:
    return list("abcdefgh"[:tasks])


def created(name: str, names: Sequence[str], channels: int = 5, **options: Any) -> Balancer:
    """One of our balancers, with what it cannot do without."""
    options = {**OPTIONS.get(name, {}), **options}
    if name == "fixed":
        options["weights"] = {task: 1.0 + "abcdefgh".index(task) for task in names}
    if name == "dtp":
        options["kpis"] = dict.fromkeys(names, "score")
    if name == "rotograd":
        options["channels"] = {task: [channels] for task in names}
    return plait.balancing.create(name, tasks=names, **options)


# What TorchJD has.


class Peer:
    """One of TorchJD's rules, driven as its documentation has it.

    Args:
        name: What we call it.
        tasks: How many.
    """

    def __init__(self, name: str, tasks: int) -> None:
        self.rule: Any = THEIRS[name](tasks)
        own = list(self.rule.parameters()) if name in ("uncertainty", "imtl_l") else []
        self.optimizer = torch.optim.SGD(own, lr=RATE) if own else None
        self.name = name

    @property
    def weighs_losses(self) -> bool:
        """Whether it is a function of the losses, to be differentiated."""
        return hasattr(self.rule, "forward") and "scalarization" in type(self.rule).__module__

    def direction(self, rows: Tensor, losses: Tensor) -> Tensor:
        """The update ``[D]``; parameters of the rule get their gradients."""
        if self.weighs_losses:
            leaf = losses.detach().clone().requires_grad_()
            self.rule(leaf).backward()
            assert leaf.grad is not None
            return leaf.grad @ rows
        if self.name in ("modo", "sdmgrad"):
            return torch.as_tensor(self.rule(rows @ rows.T) @ rows)
        return torch.as_tensor(self.rule(rows))

    def finish(self, after: Tensor) -> None:
        """What comes after the update."""
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.name == "famo":
            self.rule.update(after)
        if self.name == "dwa":
            self.rule.step()


def their_rules() -> dict[str, Callable[[int], Any]]:
    """How each of them is made for so many tasks; nothing if TorchJD is not installed."""
    try:
        import torchjd.aggregation as aggregation
        import torchjd.scalarization as scalarization
    except ImportError:
        return {}
    return {
        "equal": lambda tasks: scalarization.Sum(),
        "fixed": lambda tasks: scalarization.Constant(torch.arange(1.0, tasks + 1, dtype=torch.float64)),
        "uncertainty": lambda tasks: scalarization.UW(tasks).double(),
        "dwa": lambda tasks: scalarization.DWA(),
        "rlw": lambda tasks: scalarization.Random(),
        "gls": lambda tasks: scalarization.GeometricMean(),
        "imtl_l": lambda tasks: scalarization.IMTLL(tasks).double(),
        "famo": lambda tasks: scalarization.FAMO(tasks).double(),
        "stch": lambda tasks: scalarization.STCH(mu=1.0),
        "excess_mtl": lambda tasks: aggregation.ExcessMTL(),
        "mgda": lambda tasks: aggregation.MGDA(),
        "pcgrad": lambda tasks: aggregation.PCGrad(),
        "gradvac": lambda tasks: aggregation.GradVac(),
        "cagrad": lambda tasks: aggregation.CAGrad(c=0.5),
        "graddrop": lambda tasks: aggregation.GradDrop(),
        "imtl_g": lambda tasks: aggregation.IMTLG(),
        "nash_mtl": lambda tasks: aggregation.NashMTL(n_tasks=tasks),
        "aligned_mtl": lambda tasks: aggregation.AlignedMTL(),
        "upgrad": lambda tasks: aggregation.UPGrad(),
        "dualproj": lambda tasks: aggregation.DualProj(),
        "config": lambda tasks: aggregation.ConFIG(),
        "fairgrad": lambda tasks: aggregation.FairGrad(alpha=2.0),
        "sdmgrad": lambda tasks: aggregation.SDMGradWeighting(),
        "modo": lambda tasks: aggregation.MoDoWeighting(),
    }


THEIRS = their_rules()


def lacking(name: str) -> str:
    """Why TorchJD's rule cannot be run here; nothing if it can."""
    if name not in THEIRS:
        return "–"
    try:
        THEIRS[name](2)
    except (ImportError, NameError):  # the latter if a solver is there that cannot itself be imported
        return "needs `torchjd[full]`"
    return ""


# How exact.


def directions(
    name: str, steps: Sequence[Step], dtype: torch.dtype = torch.float64
) -> Iterator[tuple[Tensor, float]]:
    """What our rule gives in each step, and the length of the longest weighted gradient in it."""
    tasks = len(steps[0].losses)
    names, places = names_of(tasks), tuple(range(tasks))
    balancer = created(name, names)
    if dtype == torch.float64:
        balancer.double()  # parameters too
    own = [parameter for parameter in balancer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(own, lr=RATE) if own else None
    used: list[Tensor] = []

    def watched(seen: Observation, weigh: Any = balancer.weights) -> Tensor:
        weights: Tensor = weigh(seen)
        at = torch.tensor(seen.places)
        used.append(torch.zeros(tasks, dtype=torch.float64).index_copy(0, at, weights.detach().double()))
        return weights

    if not balancer.needs.direction:
        balancer.weights = watched  # type: ignore[method-assign]
    for step in steps:
        rows = step.jacobian.to(dtype)
        if balancer.needs.samples:
            gramian = rows.double() @ rows.double().T
            seen = Observation(places, tasks, step.losses, gramian, cross=gramian).heard()
            found = (balancer.weights(seen) @ rows[list(seen.places)].double()).to(dtype)
        else:
            found = balancer.direction(rows, step.losses)
        weights = used[-1] if used else torch.ones(tasks, dtype=torch.float64)
        yield found, float((weights[:, None] * step.jacobian).norm(dim=1).max())
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        balancer.observe(Observation(places, tasks, step.losses))
        if balancer.needs.closure:
            balancer.after_update(lambda step=step: step.after)
        if balancer.needs.epoch_end:
            balancer.end_epoch()
        if balancer.needs.scores:
            balancer.see_scores(
                {task: {"score": float(k)} for task, k in zip(names, step.scores, strict=True)}
            )


def error(found: Tensor, expected: Tensor, longest: float) -> float:
    """Relative to the direction, or to a hundredth of the longest weighted gradient."""
    size = max(float(expected.norm()), 1e-2 * longest, 1e-300)
    return float((found.double() - expected).norm()) / size


def answers(reference: Reference, steps: Sequence[Step]) -> Iterator[Tensor | None]:
    """What a reference says of each step; None from where the rule has no answer."""
    made = reference(steps)
    for _ in steps:
        try:
            yield next(made)
        except UndefinedError:
            made = iter(lambda: None, 0)  # type: ignore[assignment, arg-type]
            yield None


def our_errors(name: str, steps: Sequence[Step], dtype: torch.dtype) -> Iterator[float]:
    """Of each step in which the rule has an answer."""
    given = [Step(step.jacobian.to(dtype).double(), step.losses, step.after, step.scores) for step in steps]
    for answer, (found, longest) in zip(
        answers(REFERENCES[name], given), directions(name, given, dtype), strict=True
    ):
        if answer is not None:
            yield error(found, answer, longest)


WITH_THEIR_DEFAULTS: Mapping[str, Reference] = {
    "famo": partial(famo, gamma=1e-3),
    "modo": partial(modo, gamma=0.1),
}
INCOMPARABLE = {
    "rlw": "draws otherwise",
    "graddrop": "draws otherwise",
    "excess_mtl": "another first step",
}


def their_errors(name: str, steps: Sequence[Step]) -> Iterator[float]:
    """The same of TorchJD's rule, for the best positive multiple; infinite where it fails."""
    peer = Peer(name, len(steps[0].losses))
    reference = WITH_THEIR_DEFAULTS.get(name, REFERENCES[name])
    for step, answer, (_, longest) in zip(
        steps, answers(reference, steps), directions(name, steps), strict=True
    ):
        if answer is None:
            continue
        try:
            found = peer.direction(step.jacobian, step.losses)
            peer.finish(step.after)
        except Exception:  # noqa: BLE001 - whatever a solver says
            found = torch.full_like(answer, torch.inf)
        if not bool(found.isfinite().all()):
            yield math.inf
            return
        square = float(found @ found)
        possible = in_any_order(step.jacobian) if name == "pcgrad" else [answer]
        yield min(
            error(max(float(found @ one) / square, 0.0) * found if square > 0 else found, one, longest)
            for one in possible
        )


def in_any_order(rows: Tensor) -> Iterator[Tensor]:
    """What PCGrad may give."""
    tasks = len(rows)
    each = [itertools.permutations([j for j in range(tasks) if j != i]) for i in range(tasks)]
    for visits in itertools.product(*each):
        yield projected(rows, [[j for j in order if rows[j].norm() > 0] for order in visits])


def exactness(name: str, tasks: Sequence[int], seeds: int) -> dict[str, Any]:
    """Worst errors by kind of problem, ours in both precisions and TorchJD's."""
    found: dict[str, Any] = {"float64": {}, "float32": {}}
    why = INCOMPARABLE.get(name) or lacking(name)
    theirs: dict[str, list[float]] = {}
    most = {"pcgrad": 3, "gradvac": 2}.get(name, 99)  # tasks, so that TorchJD's draws can be known
    for kind in KINDS:
        sequences = [problems(kind, count, seed) for count in tasks for seed in range(seeds)]
        for precision, dtype in (("float64", torch.float64), ("float32", torch.float32)):
            errors = [e for steps in sequences for e in our_errors(name, steps, dtype)]
            found[precision][kind] = max(errors, default=None)
        if not why:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                chosen = [steps for steps in sequences if len(steps[0].losses) <= most]
                theirs[kind] = [e for steps in chosen for e in their_errors(name, steps)]
    if why:
        return {**found, "torchjd": why}
    everything = [e for errors in theirs.values() for e in errors]
    return {
        **found,
        "torchjd": {kind: max(errors, default=None) for kind, errors in theirs.items()},
        "torchjd_above_percent": sum(e > 1e-2 for e in everything) / len(everything),
    }


# What works.


class Part(Toy):
    """A process's images of the toy problem, all losses of one order; they are shares that add up."""

    def __init__(self, rank: int = 0, processes: int = 1, *, share: bool = True) -> None:
        super().__init__(NAMES[:3])
        self.images, self.labels = self.images[:, rank::processes], self.labels[:, :, rank::processes]
        self.share = 1 / processes if share else 1.0

    def losses(self, features: Mapping[str, Sequence[Tensor]], batch: int = 0) -> dict[str, Tensor]:
        found = super().losses(features, batch)
        return {name: self.share * loss * (1e-3 if name == "b" else 1.0) for name, loss in found.items()}


def trained(name: str, model: Part, steps: int = 3) -> list[Tensor]:
    """The gradients of some steps of our rule; epochs are one step long."""
    balancer = created(name, model.names)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    trunk, needs = list(model.trunk.parameters()), balancer.needs
    found = []
    for number in range(steps):
        optimizer.zero_grad()
        if needs.look_ahead:
            batches = [lambda: [model(0)], lambda: [model(1)]]
            balancer.before_update(Probe(model, batches, model.names, optimizer))
        for place in range(needs.samples):
            with balancer.cut(model.features(place + 1)) as leaves:
                balancer.sample(place, model.losses(leaves, place + 1), parameters=trunk)
        with balancer.cut(model.features()) as leaves:
            report = balancer.backward(model.losses(leaves), parameters=trunk)
        reduce_gradients(model.parameters(), but=report.reduced)
        found += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        if needs.closure:
            with torch.no_grad(), untouched(model):
                after = reduce_sum(torch.stack(list(model().values())))
            balancer.after_update(lambda after=after: after)
        if needs.epoch_end:
            balancer.end_epoch()
        if needs.scores:
            balancer.see_scores(
                {t: {"score": 0.2 + 0.1 * p + 0.05 * number} for p, t in enumerate(model.names)}
            )
    return found


def their_gradients(name: str, model: Part, *, wrapped: bool, steps: int = 3) -> list[Tensor]:
    """The trunk's gradients in some steps of TorchJD's rule, in DistributedDataParallel or not."""
    from torchjd.autojac import jac, jac_to_grad, mtl_backward

    torch.manual_seed(0)
    peer = Peer(name, len(model.names))
    whole: nn.Module = nn.parallel.DistributedDataParallel(model) if wrapped else model
    trunk: nn.Module = nn.parallel.DistributedDataParallel(model.trunk) if wrapped else model.trunk
    parameters = list(model.trunk.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        if peer.weighs_losses:
            peer.rule(torch.stack(list(whole().values()))).backward()
        elif name in ("modo", "sdmgrad"):
            losses = list(whole().values())
            rows = [
                torch.cat([p.flatten(1) for p in jac(list(model(b).values()), parameters)], 1) for b in (1, 2)
            ]
            torch.autograd.backward(losses, list(peer.rule(rows[0] @ rows[1].T)))
        else:
            features = trunk(model.images[0])
            losses = list(model.losses({task: [features] for task in model.names}).values())
            mtl_backward(losses, features=features, parallel_chunk_size=1)
            jac_to_grad(parameters, peer.rule)
        found += [p.grad.clone() for p in parameters if p.grad is not None]
        optimizer.step()
        with torch.no_grad():
            peer.finish(torch.stack(list(model().values())))
    return found


def processes_agree(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Whether two processes give the update of one, of each rule of either library."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--folder", folder, "--only", *names, "--rank"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        running = [
            subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE, text=True)
            for rank in (0, 1)
        ]
        said = [process.communicate()[1] for process in running]
        if any(process.returncode for process in running):
            raise SystemExit("\n".join(said))
        parts = [torch.load(Path(folder) / f"{rank}.pt") for rank in (0, 1)]
    found: dict[str, dict[str, str]] = {}
    for name in names:
        found[name] = {"ours": verdict(same(trained(name, Part()), *(part[name] for part in parts)))}
        if not lacking(name):
            alone = quietly(lambda name=name: their_gradients(name, Part(), wrapped=False))
            found[name]["theirs"] = verdict(
                alone is not None and same(alone, *(part[f"torchjd {name}"] for part in parts))
            )
    return found


def one_of_two(rank: int, folder: Path, names: Sequence[str]) -> None:
    """What one of the two processes computes, into a file."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for name in names:
        found[name] = trained(name, Part(rank, 2))
        if not lacking(name):
            model = Part(rank, 2, share=False)
            found[f"torchjd {name}"] = quietly(
                lambda name=name, model=model: their_gradients(name, model, wrapped=True)
            )
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def quietly(run: Callable[[], Any]) -> Any:
    """What a peer's code gives, without its warnings; None if it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return run()
        except Exception:  # noqa: BLE001 - whatever it says, it does not work
            return None


def same(expected: Sequence[Tensor] | None, *others: Sequence[Tensor] | None, within: float = 1e-6) -> bool:
    """Whether lists of tensors agree."""
    return expected is not None and all(
        other is not None
        and len(other) == len(expected)
        and all(torch.allclose(a, b, rtol=within, atol=within * float(b.abs().max())) for a, b in
                zip(other, expected, strict=True))
        for other in others
    )  # fmt: skip


def verdict(works: bool) -> str:
    return "yes" if works else "no"


def passes(check: Callable[[Any, Traits], None], name: str) -> str:
    """Whether our rule passes one of the checks of :mod:`plait.testing.balancers`."""
    traits = Traits(random=name in RANDOM)
    try:
        check(lambda names: created(name, names), traits)
    except AssertionError:
        return "no"
    return "yes"


def ours_at_features(name: str) -> str:
    """Whether the trunk's gradient is that of the rule's direction at the features."""
    if not created(name, NAMES[:3]).needs.gradients:
        return "–"
    # What graddrop keeps of everything does not depend on what it draws.
    options = {"leak": 1.0} if name == "graddrop" else {}
    model = Toy(NAMES[:3])
    trunk = list(model.trunk.parameters())
    try:
        balancer, alone = (created(name, NAMES[:3], scope="features", **options) for _ in range(2))
        for number in range(balancer.needs.samples):
            with balancer.cut(model.features(number + 1)) as leaves:
                balancer.sample(number, model.losses(leaves, number + 1), parameters=trunk)
        with balancer.cut(model.features()) as leaves:
            balancer.backward(model.losses(leaves), parameters=trunk)
    except ConfigurationError:
        return "no"
    features = model.features()["a"][0]
    losses = list(model.losses({task: [features] for task in NAMES[:3]}).values())
    rows = [torch.autograd.grad(loss, features, retain_graph=True)[0] for loss in losses]
    direction = alone.direction(torch.stack(rows).flatten(1), torch.stack(losses).detach())
    expected = torch.autograd.grad(features, trunk, direction.view_as(features))
    return verdict(same(expected, [p.grad for p in trunk if p.grad is not None]))


def theirs_work(name: str) -> dict[str, str]:
    """The same questions to TorchJD's rule."""
    steps = [each for seed in range(2) for each in problems("plain", 3, seed)]

    def step(peer: Peer, number: int, at: Sequence[int] = (0, 1, 2), scale: float = 1.0) -> Tensor:
        torch.manual_seed(number)
        rows, losses, after = (
            part[list(at)]
            for part in (steps[number].jacobian / 10, steps[number].losses, steps[number].after)
        )
        if peer.weighs_losses:  # what the rule gives is scaled
            found = peer.direction(rows, losses)
        else:
            found = peer.direction(scale * rows, losses) / scale
        peer.finish(after)
        return found

    def scale_is_taken_out() -> bool:
        return same([step(Peer(name, 3), 0)], [step(Peer(name, 3), 0, scale=2.0**16)], within=1e-3)

    def absent_task_is_left_out() -> bool:
        peer, rest = Peer(name, 3), (0, 2)
        step(peer, 0)
        step(peer, 1)
        if same([step(Peer(name, 3), 2)], [step(peer, 2)]):  # no memory
            return same([step(Peer(name, 2), 3, rest)], [step(peer, 3, rest)])
        return bool(step(peer, 3, rest).isfinite().all()) and not same(
            [step(Peer(name, 3), 4)], [step(peer, 4)]
        )

    def restored_goes_on() -> bool:
        peer, twin = Peer(name, 3), Peer(name, 3)
        for number in range(3):
            step(peer, number)
        twin.rule.load_state_dict(copy.deepcopy(peer.rule.state_dict()))
        return all(torch.equal(step(peer, number), step(twin, number)) for number in (3, 4, 5))

    def at_features() -> bool:
        from torchjd.autojac import jac

        model = Toy(NAMES[:3])
        features = model.features()["a"][0]
        found = list(model.losses({task: [features] for task in NAMES[:3]}).values())
        gradients = jac(found, features, retain_graph=True, parallel_chunk_size=1)[0].flatten(1)
        features.backward(Peer(name, 3).direction(gradients, torch.stack(found).detach()).view_as(features))
        return all(p.grad is not None for p in model.trunk.parameters())

    questions = {
        "fp16": scale_is_taken_out,
        "absent": absent_task_is_left_out,
        "resume": restored_goes_on,
        "features": at_features,
    }
    answers = {key: verdict(bool(quietly(question))) for key, question in questions.items()}
    if not created(name, NAMES[:3]).needs.gradients:
        answers["features"] = "–"
    return answers


def what_works(names: Sequence[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Answers by rule and library."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    together = processes_agree(names)
    for name in names:
        ours = {
            "ddp": together[name]["ours"],
            "fp16": passes(a_loss_scale_is_taken_out, name),
            "absent": passes(an_absent_task_is_left_out, name),
            "resume": passes(a_restored_rule_goes_on_as_if_nothing_had_been, name),
            "features": ours_at_features(name),
        }
        found[name] = {"ours": ours}
        if not lacking(name):
            found[name]["theirs"] = {"ddp": together[name]["theirs"], **theirs_work(name)}
    return found


# What it costs.


@dataclass(frozen=True)
class Cost:
    """Median ratios of a step to the plain one; None where a library has no such thing."""

    ours: float
    features: float | None
    theirs: float | None


def cost(name: str, tasks: int, pairs: int, **size: int) -> Cost:
    """Of one rule."""
    base = balancing_cost.prepared(balancing_cost.VARIANTS["plain"], tasks, **size)

    def ratio(make: Any) -> float:
        step = balancing_cost.prepared(balancing_cost.Variant(name, make), tasks, **size)
        return statistics.median(balancing_cost.ratios(step, base, pairs)[0])

    options = dict(OPTIONS.get(name, {}))
    features = None
    if ours_at_features(name) == "yes":
        features = ratio(balancing_cost.ours(name, scope="features", **options))
    peer = None
    if not lacking(name) and name not in ("modo", "sdmgrad"):  # whose recipe there takes other batches
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = ratio(their_step(name))
    return Cost(ratio(balancing_cost.ours(name, **options)), features, peer)


def their_step(name: str) -> Any:
    """A step of TorchJD's rule at its defaults."""

    def make(network: Any, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        from torchjd.autojac import jac_to_grad, mtl_backward

        peer, shared = Peer(name, len(network.heads)), list(network.encoder.parameters())

        def step() -> None:
            optimizer.zero_grad()
            features = network.encoder(network.images)
            losses = list(network.losses(dict.fromkeys(network.heads, (features,))).values())
            if peer.weighs_losses:
                peer.rule(torch.stack(losses)).backward()
            else:
                mtl_backward(losses, features=features)
                jac_to_grad(shared, peer.rule)
            optimizer.step()
            if name == "famo":
                with torch.no_grad():
                    peer.finish(torch.stack(list(network.losses(network.features()).values())))
            elif peer.optimizer is not None:
                peer.finish(torch.empty(0))

        return step

    return make


def main() -> None:
    """Measures and keeps the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=plait.list_balancers(), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=2, help="problems of each kind and number of tasks")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of steps for each cost")
    parser.add_argument("--no-cost", action="store_true")
    parser.add_argument("--out", type=Path, default=DATA, metavar="FILE")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    names = parsed.only or plait.list_balancers()
    if parsed.rank is not None:
        one_of_two(parsed.rank, parsed.folder, names)
        return
    found: dict[str, Any] = {"about": balancing_cost.about(), "rules": {}}
    if parsed.out.is_file():  # of a run over some of them, the rest stays
        found["rules"] = json.loads(parsed.out.read_text()).get("rules", {})
    works = what_works(names)
    keep_freed_memory()
    for name in names:
        rule = {"exactness": exactness(name, range(2, 9), parsed.seeds), "works": works[name]}
        if not parsed.no_cost:
            rule["cost"] = vars(cost(name, 4, parsed.pairs))
        found["rules"][name] = rule
        print(name, "done", flush=True)
        parsed.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
