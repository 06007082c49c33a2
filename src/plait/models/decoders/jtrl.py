"""JTRL: tasks take turns, from coarse to fine, each looking at what all have found so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plait.errors import ConfigurationError
from plait.models.blocks import BasicBlock, conv_norm_relu, cut, to_size_of
from plait.models.decoders.base import Decoder, make_heads, require_alike, require_all, resized
from plait.models.predictions import Predictions
from plait.tasks.base import Task


class JTRL(Decoder):
    """Joint task-recursive learning: a sequence of states, task after task, level after level.

    At each level, coarsest first, the tasks take turns in ``order``. A turn makes the task's new state of
    ``width`` channels from the encoder's level, the newest states of all tasks fused by a task-attentional
    module, and all earlier states of the task itself, resized to the level, concatenated and passed through a
    residual block. Every state is predicted from by a 1x1 convolution and supervised; the last state of a
    task that is not auxiliary makes its final prediction instead. Auxiliary tasks take turns like the others.
    At the coarsest level the first task finds no state, and the second a single one, which needs no fusion.
    A task that is alone is refined from level to level by its own states.

    Args:
        tasks: The tasks in declared order.
        channels: Channels of each level of each task's pyramid, the same for all tasks.
        strides: Strides of the levels, the same for all tasks.
        groups: The encoder's groups: each level is reduced once for each. None: each task is its own.
        default_head: The backbone family's head; not used.
        width: Channels of each state.
        order: The names of all tasks in the order of their turns, on which the network depends: the first
            does not hear what the others find at the finest level. None: auxiliary tasks first, then
            alphabetically, however the tasks are declared.
        levels: How many of the pyramid's levels are used, the coarsest ones; None for all.
        head: Head of the final predictions, on the last state; ``linear`` is a 1x1 convolution.
        head_options: Keyword arguments of the head.
        gradient_checkpointing: Whether to compute the turns again in the backward pass: less memory for more
            time.

    Raises:
        ConfigurationError: If tasks have pyramids of different shapes, ``order`` is not one of all tasks, or
            another option is out of range.

    Source:
        Zhang et al., Joint Task-Recursive Learning for Semantic Segmentation and Depth Estimation, ECCV 2018:
        two tasks, depth first, and four levels. Our interpretation: the paper's abstract and a public
        re-implementation of its fusion are all we know in detail, so how levels, states and earlier states
        enter a turn, its block and the width are ours, and so is the extension to any number of tasks.
    """

    interacts = True

    def __init__(
        self,
        *,
        tasks: Sequence[Task],
        channels: Mapping[str, Sequence[int]],
        strides: Mapping[str, Sequence[int]],
        groups: Mapping[str, str] | None = None,
        default_head: str = "fpn",
        width: int = 64,
        order: Sequence[str] | None = None,
        levels: int | None = None,
        head: str = "linear",
        head_options: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require_alike(channels, strides, "jtrl")
        if width < 1:
            raise ConfigurationError(f"the width of decoder 'jtrl' must be 1 or more, got {width}")
        names = [task.name for task in tasks]
        given, steps = channels[names[0]], strides[names[0]]
        if levels is not None and not 1 <= levels <= len(given):
            raise ConfigurationError(
                f"levels of decoder 'jtrl' must be from 1 to the pyramid's {len(given)}, got {levels}"
            )
        if order is not None and sorted(order) != sorted(names):
            raise ConfigurationError(
                f"the order of decoder 'jtrl' must name every task once ({', '.join(names)}), got "
                f"{', '.join(order) or 'none'}"
            )
        self.tasks = tuple(tasks)
        self.order = tuple(order or [t.name for t in sorted(tasks, key=lambda t: (not t.auxiliary, t.name))])
        self.levels = levels or len(given)
        self.gradient_checkpointing = gradient_checkpointing
        self.groups = {name: groups[name] if groups else name for name in names}
        coarsest_first = list(enumerate(given[::-1][: self.levels]))
        self.reduce = nn.ModuleDict(
            {
                f"{group} {place}": conv_norm_relu(level, width, 1)
                for group in dict.fromkeys(self.groups.values())
                for place, level in coarsest_first
            }
        )
        self.turns = nn.ModuleDict(
            {
                f"{name} {place}": Turn(width, states=self._states_found(place, name), earlier=place)
                for name in names
                for place, _ in coarsest_first
            }
        )
        self.predictions = nn.ModuleDict(
            {
                f"{task.name} {place}": nn.Conv2d(width, task.channels, 1)
                for task in tasks
                for place, _ in (coarsest_first if task.auxiliary else coarsest_first[:-1])
            }
        )
        self.heads = make_heads(
            tasks,
            head,
            head_options,
            channels=dict.fromkeys(names, (width,)),
            strides=dict.fromkeys(names, (steps[len(given) - self.levels],)),
        )

    def forward(self, pyramids: Mapping[str, Sequence[Tensor]], size: Sequence[int]) -> Predictions:
        require_all(self.tasks, pyramids, "jtrl")
        leaders = {group: task for task, group in self.groups.items()}
        states: dict[str, list[Tensor]] = {task: [] for task in self.order}
        intermediate = []
        for place in range(self.levels):
            reduced = {
                group: self.reduce[f"{group} {place}"](pyramids[task][-1 - place])
                for group, task in leaders.items()
            }
            for task in self.order:
                newest = [states[other][-1] for other in self._states_found(place, task)]
                turn = f"{task} {place}"
                state = self.run(self.turns[turn], reduced[self.groups[task]], newest, states[task])
                states[task] = [*states[task], state]
                if turn in self.predictions:
                    intermediate.append({task: self.predictions[turn](state)})
        return Predictions(
            {task: resized(head([states[task][-1]]), size) for task, head in self.heads.items()}, intermediate
        )

    def _states_found(self, place: int, task: str) -> tuple[str, ...]:
        """The tasks whose newest states a turn looks at: all that have one, if another than it has."""
        found = self.order if place else self.order[: self.order.index(task)]
        return found if set(found) - {task} else ()


class Turn(nn.Module):
    """Makes a task's new state from the encoder's level, all tasks' newest states and its own earlier ones.

    Args:
        width: Channels of everything.
        states: The tasks whose newest states are given; two or more are fused.
        earlier: How many earlier states of the task itself are given.
    """

    def __init__(self, width: int, *, states: Sequence[str], earlier: int) -> None:
        super().__init__()
        self.fuse = TaskAttention(len(states), width) if len(states) > 1 else None
        self.block = BasicBlock((1 + bool(states) + earlier) * width, width)

    def forward(self, level: Tensor, states: Sequence[Tensor], earlier: Sequence[Tensor]) -> Tensor:
        """Maps a level ``[B, width, h, w]`` and states of any size to the new state, of the level's shape."""
        found = [to_size_of(level, state) for state in states]
        if self.fuse is not None:
            found = [self.fuse(found)]
        made: Tensor = self.block(torch.cat([level, *found, *(to_size_of(level, old) for old in earlier)], 1))
        return made


class TaskAttention(nn.Module):
    """The task-attentional module: strengthens in all states what they have in common, and fuses them.

    With states a and b: ``B = sigmoid(conv([a; b]))``, ``m = conv(B a + (1 - B) b)``, ``A = sigmoid(R(m))``
    and ``conv([(1 + A) a; (1 + A) b])``, with 1x1 convolutions and a residual block R that goes down to half
    the size and up again. With n states B is a softmax over n maps, of which the last has logits 0: with two,
    that is the sigmoid.

    Args:
        states: How many are fused, 2 or more.
        width: Channels of each, and of the result.

    Source:
        Zhang et al., ECCV 2018, after a public re-implementation; more than two states, and R's layers (a
        3x3 convolution and a transposed one, each of stride 2), are ours.
    """

    def __init__(self, states: int, width: int) -> None:
        super().__init__()
        self.states = states
        self.balance = nn.Conv2d(states * width, (states - 1) * width, 1)
        self.merge = nn.Conv2d(width, width, 1)
        self.down = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1)
        self.fuse = nn.Conv2d(states * width, width, 1)

    def balances(self, states: Sequence[Tensor]) -> Tensor:
        """The share of each of n states ``[B, C, h, w]``: ``[B, n, C, h, w]``, which sums to 1 over n."""
        free = self.balance(torch.cat([*states], 1)).unflatten(1, (self.states - 1, -1))
        return torch.cat([free, torch.zeros_like(free[:, :1])], 1).softmax(1)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Maps n states ``[B, C, h, w]`` to one map of that shape."""
        merged = self.merge((self.balances(states) * torch.stack([*states], 1)).sum(1))
        # Up to an even size, and cut: the padding of an output can be no size that is only known later.
        up = cut(self.up(self.down(merged)), merged.shape[-2:])
        attention = (merged + up).sigmoid()
        factor = 1 + attention
        fused: Tensor = self.fuse(torch.cat([factor * state for state in states], 1))
        return fused
