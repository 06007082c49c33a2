"""One backbone of which each task learns to skip blocks."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import Parameter
from torch.nn import functional as F

from plait.errors import ConfigurationError
from plait.models.backbones import Backbone
from plait.models.encoders.base import Encoder, MakeBackbone, Pyramids, probing, staged, task_names
from plait.models.encoders.supergraph import (
    counted_if,
    gumbel_noise,
    require_not_negative,
    require_schedule,
    search_progress,
)
from plait.models.recompute import recomputed

logger = logging.getLogger(__name__)

Gate = bool | Tensor
"""Whether a task runs a block: known, or drawn, a scalar in [0, 1] that gradients pass through."""


class AdaShare(Encoder):
    """One backbone for all tasks, of which each task runs some blocks and skips others.

    Only a block whose output has the shape of its input can be skipped; there is a decision for each of
    them and each task, in the order of depth. It is a logit (the log-odds of running the block), drawn anew
    in each training step, and in evaluation the more likely of the two. One penalty favours skipping,
    another that tasks decide alike, the more the lower the block. Search, then train anew with ``policy``
    set to what :meth:`policy` gives.

    After a warm-up in which all blocks run, weights and logits learn in turn. While the logits learn, the
    backbone's weights get no gradient, and while the weights learn, the logits get none; decoders learn all
    the time. Decisions open from the last block down: a block runs for all tasks until its own opens. Until
    :meth:`at_step` is called, everything is open and learns. A training step costs up to a backbone a task;
    what tasks have run alike is computed once where that is known without drawing (in the warm-up, below
    the open blocks, in evaluation and with a given policy). Where no block can be skipped there is nothing
    to search, which is logged, and all tasks share the backbone whole.

    Args:
        make_backbone: Makes the backbone; called once.
        tasks: Names of the tasks in declared order.
        policy: For each task its decisions, a ``1`` (run) or ``0`` (skip) for each block that can be skipped,
            as in ``{"depth": "1101"}``; None to search. Blocks that no task runs are left out.
        sparsity_weight: Of the penalty ``sum over tasks and blocks of log p``, p the probability to run.
        sharing_weight: Of the penalty ``sum over pairs of tasks and blocks l of (L - l) / L |p - p'|``, where
            l counts the L blocks from 1.
        warmup: The part of training at the start in which all blocks run.
        curriculum: The part of what follows until the last decision opens; 0 opens all at once.
        turns: Steps in which weights learn, then steps in which logits learn, and so on; None for both in
            every step.
        temperature: Of the draws after the warm-up.
        final_temperature: The same at the end; in between it falls by a constant factor.
        hard: Whether a draw is exactly 0 or 1 (straight through) instead of between.
        lr_multiplier: Learning rate of the logits over that of the network.

    Raises:
        ConfigurationError: If the backbone has no stages, an option is out of range, or the policy does not
            fit tasks and blocks.

    Source:
        Sun, Panda, Feris and Saenko, AdaShare: Learning What To Share For Efficient Deep Multi-Task
        Learning, NeurIPS 2020, section 3; weights, warm-up and learning rate as published for NYUD-v2. Where
        we differ: a block is mixed with its input after its last activation; logits learn on the same data
        as weights, which have 80 and 20 percent of it there; draws are hard by default; the decision's two
        logits are one, their difference; running statistics do not count a block that a task skips; the end
        is the more likely policy, where the paper draws several and takes the best.
    """

    searches = True
    has_cut = False

    temperature: Tensor

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        tasks: Sequence[str],
        policy: Mapping[str, str] | None = None,
        sparsity_weight: float = 0.001,
        sharing_weight: float = 0.05,
        warmup: float = 0.2,
        curriculum: float = 0.5,
        turns: Sequence[int] | None = (40, 10),
        temperature: float = 5.0,
        final_temperature: float = 0.1,
        hard: bool = True,
        lr_multiplier: float = 10.0,
    ) -> None:
        require_schedule(warmup, temperature, final_temperature)
        require_not_negative(
            sparsity_weight=sparsity_weight,
            sharing_weight=sharing_weight,
            lr_multiplier=lr_multiplier,
        )
        if not 0 <= curriculum <= 1:
            raise ConfigurationError(f"curriculum is a part of the search, between 0 and 1, got {curriculum}")
        if turns is not None and (len(turns) != 2 or min(turns) < 1):
            raise ConfigurationError(
                f"turns must be two whole numbers of steps, 1 or more, for weights and logits, got "
                f"{list(turns)}: give both, or null to learn both in every step"
            )
        super().__init__()
        self.tasks = task_names(tasks)
        self.backbone = staged(make_backbone(), "adashare")
        self.skippable = skippable_blocks(self.backbone)
        if not self.skippable:
            logger.warning("no block of %s can be skipped: all tasks share it whole", self.backbone.name)
            policy = dict.fromkeys(self.tasks, "") if policy is None else policy
        self.given = None if policy is None else self._checked(policy)
        self.settled: Mapping[str, Sequence[bool]] | None = None
        self.logits = nn.ParameterDict()
        if self.given is None:
            self.logits.update({t: Parameter(torch.zeros(len(self.skippable))) for t in sorted(self.tasks)})
        else:
            for place, (stage, block) in enumerate(self.skippable):
                if not any(decisions[place] for decisions in self.given.values()):
                    self.backbone.stages[stage][block] = nn.Identity()
        self.channels = dict.fromkeys(self.tasks, self.backbone.channels)
        self.strides = dict.fromkeys(self.tasks, self.backbone.strides)
        self.groups = {task: task for task in self.tasks}
        if self.given is not None:
            self.groups = {
                t: min(u for u in self.tasks if self.given[u] == self.given[t]) for t in self.tasks
            }
        self.normalisation = self.backbone.normalisation
        self.default_head = self.backbone.default_head
        self.sparsity_weight = sparsity_weight
        self.sharing_weight = sharing_weight
        self.warmup = warmup
        self.curriculum = curriculum
        self.turns = None if turns is None else tuple(turns)
        self.temperatures = (temperature, final_temperature)
        self.hard = hard
        self.lr_multiplier = lr_multiplier
        self.register_buffer("temperature", torch.tensor(float(temperature)), persistent=False)
        self.opened = len(self.skippable)
        """How many decisions, counted from the last block, are drawn; the others run."""
        self.weights_learn = self.logits_learn = True

    def at_step(self, step: int, steps: int) -> None:
        progress = search_progress(step, steps, self.warmup)
        blocks = len(self.skippable)
        if progress is None:
            self.opened = 0
        elif progress < self.curriculum:
            self.opened = min(blocks, 1 + int(blocks * progress / self.curriculum))
        else:
            self.opened = blocks
        first, last = self.temperatures
        self.temperature.fill_(first * (last / first) ** (progress or 0.0))
        self.weights_learn, self.logits_learn = True, progress is not None
        if self.given is None and self.turns is not None and progress is not None:
            searched = step - math.ceil(self.warmup * steps)
            self.weights_learn = searched % sum(self.turns) < self.turns[0]
            self.logits_learn = not self.weights_learn

    def policy(self) -> dict[str, str]:
        """Each task's decisions in evaluation, as the option ``policy`` takes them."""
        return {
            task: "".join("1" if run else "0" for run in decisions)
            for task, decisions in self._decided().items()
        }

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Pyramids:
        asked = self.asked(tasks)
        if not asked:
            return {}
        gates = self._gates()
        places = {where: place for place, where in enumerate(self.skippable)}
        features = dict.fromkeys(asked, self._run(self.backbone.stem, self.backbone.pad(images)))
        ran: dict[str, tuple[str, ...]] = dict.fromkeys(asked, ())  # equal for tasks with the same features
        levels: dict[str, list[Tensor]] = {task: [] for task in asked}
        for number, stage in enumerate(self.backbone.stages):
            for index, block in enumerate(stage):
                place = places.get((number, index))
                outputs: dict[tuple[str, ...], Tensor] = {}
                for task in asked:
                    gate = True if place is None else gates[task][place]
                    if isinstance(gate, Tensor):
                        with counted_if(block, gate.detach() > 0.5):
                            output = self._run(block, features[task], recompute=stage.recompute)
                        features[task] = gate * output + (1 - gate) * features[task]
                        ran[task] = (*ran[task], task)
                    elif gate:
                        if ran[task] not in outputs:
                            outputs[ran[task]] = self._run(block, features[task], recompute=stage.recompute)
                        features[task] = outputs[ran[task]]
                        ran[task] = (*ran[task], f"{number}.{index}")
            for task in asked:
                levels[task].append(features[task])
        pyramids: Pyramids = {}
        for task in asked:
            alike = next((t for t in pyramids if self.groups[t] == self.groups[task]), None)
            cropped = self.backbone.crop(levels[task], images.shape[-2:])
            pyramids[task] = cropped if alike is None else list(pyramids[alike])
        return pyramids

    def penalties(self) -> dict[str, Tensor]:
        """Both penalties over the open decisions; none with a given policy."""
        if self.given is not None:
            return {}
        blocks = len(self.skippable)
        logits = torch.stack(list(self._logits().values()))[:, blocks - self.opened :]
        lowness = 1 - torch.arange(blocks - self.opened + 1, blocks + 1, device=logits.device) / blocks
        chances = logits.sigmoid()
        pairs = [(lowness * (one - other).abs()).sum() for one, other in combinations(chances.unbind(), 2)]
        return {
            "sparsity": self.sparsity_weight * F.logsigmoid(logits).sum(),
            "sharing": self.sharing_weight * torch.stack([logits.new_zeros(()), *pairs]).sum(),
        }

    def lr_multipliers(self) -> dict[Parameter, float]:
        return dict.fromkeys(self.logits.parameters(), self.lr_multiplier)

    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        users: dict[tuple[str, ...], list[Parameter]] = {self.tasks: list(self.backbone.stem.parameters())}
        places = {where: place for place, where in enumerate(self.skippable)}
        for number, stage in enumerate(self.backbone.stages):
            for index, block in enumerate(stage):
                place, who = places.get((number, index)), self.tasks
                if self.given is not None and place is not None:
                    who = tuple(task for task in self.tasks if self.given[task][place])
                if who:
                    users.setdefault(who, []).extend(block.parameters())
        for task, logits in self.logits.items():
            users.setdefault((task,), []).append(logits)
        return users

    def settle(self) -> None:
        self.settled = self._decided()

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.settled = None
        return super().train(mode)

    def _gates(self) -> Mapping[str, Sequence[Gate]]:
        """Each task's gates, one for each block that can be skipped."""
        if self.given is not None or not self.training:
            return self._decided()
        closed = len(self.skippable) - self.opened
        gates: dict[str, Sequence[Gate]] = {}
        noise = gumbel_noise(2, len(self.tasks), len(self.skippable), device=self.temperature.device)
        # The difference of two Gumbel variables: what a draw between running and skipping depends on.
        for (task, logits), shift in zip(self._logits().items(), (noise[0] - noise[1]).unbind(), strict=True):
            soft = ((logits + shift) / self.temperature).sigmoid()
            drawn = (soft > 0.5).to(soft) + (soft - soft.detach()) if self.hard else soft
            gates[task] = [*[True] * closed, *drawn[closed:].unbind()]
        return gates

    def _decided(self) -> Mapping[str, Sequence[bool]]:
        """The decisions of evaluation; reads the logits on the host."""
        if self.given is not None:
            return self.given
        if self.settled is not None:
            return self.settled
        rows: list[list[float]] = torch.stack([self.logits[task] for task in self.tasks]).tolist()
        return {task: [logit >= 0 for logit in row] for task, row in zip(self.tasks, rows, strict=True)}

    def _logits(self) -> dict[str, Tensor]:
        """Logits ``[blocks]`` by task, in alphabetical order; detached while only the weights learn."""
        names = sorted(self.tasks)
        return {t: self.logits[t] if self.logits_learn else self.logits[t].detach() for t in names}

    def _run(self, module: nn.Module, features: Tensor, *, recompute: bool = False) -> Tensor:
        """A part of the backbone, without gradient to its weights while only the logits learn."""
        if self.training and not self.weights_learn:
            module = _Held(module)
        made: Tensor = recomputed(module, features) if recompute and self.training else module(features)
        return made

    def _checked(self, policy: Mapping[str, str]) -> dict[str, tuple[bool, ...]]:
        blocks = len(self.skippable)
        if set(policy) != set(self.tasks):
            raise ConfigurationError(
                f"policy must decide for {', '.join(self.tasks)}, got one for {', '.join(policy) or 'none'}"
            )
        for task, decisions in policy.items():
            if len(decisions) != blocks or set(decisions) - {"0", "1"}:
                raise ConfigurationError(
                    f"the policy of {task} must be {blocks} digits 0 or 1, one for each block of "
                    f"{self.backbone.name!r} that can be skipped, got {decisions!r}"
                )
        return {task: tuple(digit == "1" for digit in policy[task]) for task in self.tasks}


def skippable_blocks(backbone: Backbone) -> tuple[tuple[int, int], ...]:
    """Stage and place in it, from 0, of each block whose output has the shape of its input."""
    found = []
    with probing(backbone) as images:
        features = backbone.stem(images)
        for number, stage in enumerate(backbone.stages):
            for index, block in enumerate(stage):
                output = block(features)
                if output.shape == features.shape:
                    found.append((number, index))
                features = output
    return tuple(found)


class _Held(nn.Module):
    """Runs a module without gradient to its parameters, whatever their own ``requires_grad``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Tensor) -> Tensor:
        held = {name: parameter.detach() for name, parameter in self.module.named_parameters()}
        made: Tensor = functional_call(self.module, held, (features,))
        return made
