"""What encoders that learn who shares what have in common: random choices, schedules, candidate copies."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils.flop_counter import FlopCounterMode

from plait.errors import ConfigurationError
from plait.models.backbones import Backbone
from plait.models.encoders.base import Encoder, MakeBackbone, Pyramids, probing, staged, task_names
from plait.models.encoders.trees import Tree, in_order

Choices = dict[str, tuple[str, ...]]
"""For each task the copy that serves it at each part, the stem first."""


def gumbel_noise(*shape: int, device: torch.device) -> Tensor:
    """Standard Gumbel noise from torch's global generator: ``-log E`` with E exponential of rate 1."""
    return -torch.empty(shape, device=device).exponential_().log()


def sampled(logits: Tensor, noise: Tensor, temperature: Tensor, *, hard: bool) -> Tensor:
    """A draw over the last axis that gradients pass through.

    Args:
        logits: ``[..., K]``.
        noise: Gumbel noise of the same shape.
        temperature: A positive scalar; small values bring a soft draw close to a choice of one.
        hard: Whether the value is exactly one 1 and else 0, while the gradient is the soft draw's (straight
            through).

    Returns:
        Weights ``[..., K]`` that sum to 1; which of them is largest does not depend on the temperature.

    Source:
        Jang, Gu and Poole, Categorical Reparameterization with Gumbel-Softmax, ICLR 2017, eq. 2 and
        section 2.2. Torch's own function rounds differently in the straight-through sum, so that its 1 may
        be 0.9999999.
    """
    soft = ((logits + noise) / temperature).softmax(-1)
    if not hard:
        return soft
    chosen = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
    return chosen + (soft - soft.detach())


def mixed(weights: Tensor, candidates: Sequence[Tensor]) -> Tensor:
    """The sum of candidates of one shape, weighted by ``[K]``; exactly one of them where one weight is 1."""
    terms = [weight * candidate for weight, candidate in zip(weights.unbind(), candidates, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def search_progress(step: int, steps: int, warmup: float) -> float | None:
    """The part of the search that is over, in [0, 1]; None during the warm-up.

    >>> [search_progress(step, 100, 0.2) for step in (0, 19, 20, 60)]
    [None, None, 0.0, 0.5]
    """
    start = warmup * steps
    if step < start:
        return None
    return min((step - start) / (steps - start), 1.0) if steps > start else 1.0


def require_schedule(warmup: float, temperature: float, final_temperature: float) -> None:
    """Raises :class:`ConfigurationError` for a warm-up or temperatures that make no schedule."""
    if not 0 <= warmup < 1:
        raise ConfigurationError(f"warmup is a part of training, at least 0 and less than 1, got {warmup}")
    if not 0 < final_temperature <= temperature < math.inf:
        raise ConfigurationError(
            f"the temperature must fall from temperature to final_temperature, both positive and finite, got "
            f"{temperature} and {final_temperature}"
        )


def require_not_negative(**values: float) -> None:
    """Raises :class:`ConfigurationError` for an option that is negative or not finite, naming it."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ConfigurationError(f"{name} must be 0 or more and finite, got {value}")


@contextmanager
def counted_if(module: nn.Module, flag: Tensor) -> Iterator[None]:
    """Batches that a module sees meanwhile count in its running statistics only if ``flag`` (bool scalar).

    So a candidate keeps the statistics of the features that it will serve. Nothing waits for the device.
    """
    before = [buffer.clone() for buffer in module.buffers()]
    yield
    for buffer, old in zip(module.buffers(), before, strict=True):
        # Through .data: autograd keeps the buffers of a batch norm, and would take this for a change of them.
        buffer.data.copy_(torch.where(flag, buffer, old))


def part_costs(backbone: Backbone) -> tuple[int, ...]:
    """Multiply-accumulates of the stem and of each stage on an image of 64x64."""
    costs = []
    with probing(backbone) as features:
        for part in (backbone.stem, *backbone.stages):
            with FlopCounterMode(display=False) as counter:
                features = part(features)
            costs.append(int(counter.get_total_flops()) // 2)
    return tuple(costs)


class Supergraph(Encoder):
    """A copy of a backbone for each task, whose parts any task may come to use.

    The copies are named after the tasks. Wherever one copy of a part is chosen there is a vector of logits
    over all copies, in the alphabetical order of their names, so that the declared order of tasks means
    nothing. In training choices are drawn and everything that could have been drawn is computed; in
    evaluation each choice is the copy with the largest logit (the first by name among equals), and only
    what is used is computed.

    Attributes:
        backbones: The copies.
        nodes: Their names, in alphabetical order.
        logits: For each place in depth, ``{name: [T]}``.
        temperature: Of the draws, a buffer, so that a compiled network need not be compiled again.
        warming: Whether the warm-up lasts.
    """

    searches = True
    has_cut = False

    temperature: Tensor

    def __init__(
        self, *, name: str, make_backbone: MakeBackbone, tasks: Sequence[str], temperature: float
    ) -> None:
        super().__init__()
        self.tasks = task_names(tasks)
        self.nodes = tuple(sorted(self.tasks))
        self.backbones = nn.ModuleDict({task: staged(make_backbone(), name) for task in self.tasks})
        first = self.backbone(self.nodes[0])
        self.channels = dict.fromkeys(self.tasks, first.channels)
        self.strides = dict.fromkeys(self.tasks, first.strides)
        self.groups = {task: task for task in self.tasks}
        self.normalisation = first.normalisation
        self.default_head = first.default_head
        self.register_buffer("temperature", torch.tensor(float(temperature)), persistent=False)
        self.warming = False
        self.settled: list[dict[str, str]] | None = None

    def settle(self) -> None:
        self.settled = self.preferred()

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.settled = None
        return super().train(mode)

    def make_logits(self, places: int) -> nn.ModuleList:
        """Logits of equal chances: a vector for each name, at so many places in depth."""
        return nn.ModuleList(
            nn.ParameterDict({node: Parameter(torch.zeros(len(self.nodes))) for node in self.nodes})
            for _ in range(places)
        )

    @abstractmethod
    def choices(self) -> Choices:
        """The structure that evaluation uses; reads the logits on the host."""

    @abstractmethod
    def search(self, images: Tensor, asked: Sequence[str]) -> dict[str, list[Tensor]]:
        """The levels of each asked task on padded images, in training."""

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Pyramids:
        asked = self.asked(tasks)
        if not asked:
            return {}
        backbone = self.backbone(self.nodes[0])
        padded = backbone.pad(images)
        levels = self.search(padded, asked) if self.training else self.discrete(padded, asked, self.choices())
        return {task: backbone.crop(levels[task], images.shape[-2:]) for task in asked}

    def tree(self) -> Tree:
        """The tree that evaluation uses: tasks share a part if they use the same copies up to it."""
        chosen = self.choices()
        partitions = []
        for part in range(1 + len(self.backbone(self.nodes[0]).stages)):
            groups: dict[tuple[str, ...], list[str]] = {}
            for task in self.tasks:
                groups.setdefault(chosen[task][: part + 1], []).append(task)
            partitions.append(in_order(list(groups.values()), self.tasks))
        return Tree(tuple(partitions))

    def discrete(
        self, images: Tensor, asked: Sequence[str], chosen: Mapping[str, tuple[str, ...]]
    ) -> dict[str, list[Tensor]]:
        """The levels of each asked task; what tasks share is computed once."""
        made: dict[tuple[str, ...], Tensor] = {(): images}
        levels: dict[str, list[Tensor]] = {}
        for task in asked:
            path = chosen[task]
            for part, node in enumerate(path):
                if path[: part + 1] not in made:
                    made[path[: part + 1]] = self.part(node, part)(made[path[:part]])
            levels[task] = [made[path[:end]] for end in range(2, len(path) + 1)]
        return levels

    def backbone(self, node: str) -> Backbone:
        """The copy of this name."""
        return cast("Backbone", self.backbones[node])

    def part(self, node: str, part: int) -> nn.Module:
        """A copy's part: 0 is the stem, ``k`` the k-th stage."""
        return self.backbone(node).part(part)

    def all_logits(self) -> Tensor:
        """Logits of all draws, ``[places, T, T]``, both of the last axes in alphabetical order.

        They get no gradient during the warm-up, so that the optimizer's state of them begins with the search.
        """
        stacked = torch.stack([torch.stack([place[n] for n in self.nodes]) for place in self._places()])
        return stacked.detach() if self.warming else stacked

    def drawn(self, *, hard: bool) -> list[dict[str, Tensor]]:
        """For each place a draw ``[T]`` by name of who chooses; each depends on its own logits only."""
        count, places = len(self.nodes), self._places()
        noise = gumbel_noise(len(places), count, count, device=self.temperature.device)
        return [
            {
                node: sampled(
                    place[node].detach() if self.warming else place[node],
                    noise[depth, number],
                    self.temperature,
                    hard=hard,
                )
                for number, node in enumerate(self.nodes)
            }
            for depth, place in enumerate(places)
        ]

    def preferred(self) -> list[dict[str, str]]:
        """For each place the copy with the largest logit, by name of who chooses."""
        if self.settled is not None:
            return self.settled
        rows: list[list[list[float]]] = self.all_logits().tolist()
        return [
            {node: self.nodes[row.index(max(row))] for node, row in zip(self.nodes, place, strict=True)}
            for place in rows
        ]

    def _places(self) -> list[nn.ParameterDict]:
        return [cast("nn.ParameterDict", place) for place in cast("nn.ModuleList", self.logits)]
