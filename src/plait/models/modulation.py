"""Weights shared by all tasks, modulated by each: a network that computes one task at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from timm.layers.norm import RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _BatchNorm

from plait.errors import ConfigurationError
from plait.models.blocks import SqueezeExcite

NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d)


class ActiveTask:
    """The task that a modulated network computes at the moment: set by its owner, read by its parts."""

    name: str = ""


class PerTask(nn.Module):
    """One module a task, of which the active task's runs."""

    def __init__(self, modules: Mapping[str, nn.Module], active: ActiveTask) -> None:
        super().__init__()
        self.of = nn.ModuleDict(modules)
        self.active = active

    def forward(self, features: Tensor) -> Tensor:
        """Maps features as the active task's module does."""
        made: Tensor = self.of[self.active.name](features)
        return made


class Adapted(nn.Module):
    """A shared layer with the active task's residual adapter in parallel: their sum.

    Source:
        Rebuffi, Bilen and Vedaldi, Efficient Parametrization of Multi-Domain Deep Neural Networks, CVPR 2018.
    """

    def __init__(self, shared: nn.Module, adapters: PerTask) -> None:
        super().__init__()
        self.shared = shared
        self.adapters = adapters

    def forward(self, features: Tensor) -> Tensor:
        """Maps features to the shape that the shared layer gives."""
        made: Tensor = self.shared(features) + self.adapters(features)
        return made


@dataclass(frozen=True, kw_only=True)
class Modulation:
    """What each task has of its own beside shared layers, and which task is active.

    Attributes:
        tasks: Their names.
        squeeze_excite: Whether tasks have squeeze-and-excitation.
        adapters: Whether tasks have residual adapters.
        task_norm: Whether tasks have norms.
        reduction: Channels of a squeeze-and-excitation over those of its hidden layer.
        active: The one object that all parts of a network look at.

    Raises:
        ConfigurationError: If ``reduction`` is below 1.
    """

    tasks: Sequence[str]
    squeeze_excite: bool
    adapters: bool
    task_norm: bool
    reduction: int
    active: ActiveTask = field(default_factory=ActiveTask)

    def __post_init__(self) -> None:
        if self.reduction < 1:
            raise ConfigurationError(
                f"the reduction of squeeze-and-excitation must be 1 or more, got {self.reduction}"
            )

    def copies(self, module: nn.Module) -> PerTask:
        """A copy of a module a task."""
        return PerTask({task: copy.deepcopy(module) for task in self.tasks}, self.active)

    def norm(self, norm: nn.Module) -> nn.Module:
        """A norm a task, each starting as the given one; that one if norms are shared."""
        return self.copies(norm) if self.task_norm else norm

    def gates(self, channels: int, *, reduction: int | None = None, neutral: bool = False) -> nn.Module:
        """A squeeze-and-excitation a task, nothing without; ``neutral`` gates are exactly a half at first."""
        if not self.squeeze_excite:
            return nn.Identity()
        made = {task: SqueezeExcite(channels, reduction or self.reduction) for task in self.tasks}
        for part in made.values() if neutral else ():
            for parameter in part.gate[-2].parameters():
                nn.init.zeros_(parameter)
        return PerTask(made, self.active)

    def convolution(self, convolution: nn.Conv2d) -> nn.Module:
        """A convolution with a 1x1 adapter of the same stride and groups a task; itself without.

        Adapters start at zero, so at first the sum is what the convolution gives.
        """
        if not self.adapters:
            return convolution
        adapter = nn.Conv2d(
            convolution.in_channels,
            convolution.out_channels,
            1,
            stride=convolution.stride,  # type: ignore[arg-type]
            groups=convolution.groups,
            bias=False,
        )
        return self._beside(convolution, adapter)

    def perceptron(self, perceptron: nn.Module) -> nn.Module:
        """A multilayer perceptron with one linear adapter a task beside the whole of it; itself without."""
        if not self.adapters:
            return perceptron
        layers = [part for part in perceptron.modules() if isinstance(part, nn.Linear)]
        adapter = nn.Linear(layers[0].in_features, layers[-1].out_features, bias=False)
        return self._beside(perceptron, adapter)

    def _beside(self, shared: nn.Module, adapter: nn.Conv2d | nn.Linear) -> Adapted:
        nn.init.zeros_(adapter.weight)
        return Adapted(shared, self.copies(adapter))


def own_parameters(network: nn.Module, tasks: Sequence[str]) -> dict[str, list[Parameter]]:
    """The parameters of a modulated network that only one task uses, by task."""
    parts = list(_per_task(network))
    return {task: [p for part in parts for p in part.of[task].parameters()] for task in tasks}


def task_multiplier(lr_multiplier: float | None, tasks: int) -> float:
    """What the learning rate of one task's own parameters is multiplied by: for None the number of tasks.

    Raises:
        ConfigurationError: If it is not positive and finite.
    """
    multiplier = float(tasks) if lr_multiplier is None else lr_multiplier
    if not (math.isfinite(multiplier) and multiplier > 0):
        raise ConfigurationError(f"lr_multiplier must be positive and finite, got {multiplier}: leave it out")
    return multiplier


def _per_task(network: nn.Module) -> Iterator[PerTask]:
    return (part for part in network.modules() if isinstance(part, PerTask))
