"""One pass a task through shared weights, conditioned on the task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.nn import Parameter

from plait.errors import ConfigurationError
from plait.models.backbones import Backbone
from plait.models.encoders.base import Encoder, MakeBackbone, Pyramids, probing, staged, task_names
from plait.models.modulation import (
    NORMS,
    ActiveTask,
    Modulation,
    PerTask,
    own_parameters,
    task_multiplier,
)
from plait.models.recompute import recomputed


class ASTMT(Encoder):
    """Attentive single-tasking: one task at a time, through shared weights that the task modulates.

    The stem runs once. Through the stages each task makes a pass of its own, in which the blocks use that
    task's squeeze-and-excitation, residual adapters and norms. So tasks cannot disturb each other's features
    within a pass, and meet in the shared weights alone: there is no place to cut.

    - Squeeze-and-excitation (SE) scales a block's residual branch just before the shortcut is added, where
      the block has a place for it (timm's ResNets); a backbone's own attention (SE-ResNet) is copied for each
      task. Other blocks are gated at their output, by twice the gate, which is one at first.
    - Adapters are 1x1 convolutions in parallel to the blocks' larger convolutions, of the same stride and
      groups (for a depthwise one, a factor a channel). In blocks without such a convolution (Swin), a linear
      layer runs in parallel to the whole perceptron. They start at zero.
    - Norms of the stages (batch, layer or other norms) start as copies of the backbone's.

    A norm that stays shared counts the batch once in every task's pass. The active task is state of the
    encoder, so two threads must not run one encoder at the same time.

    Args:
        make_backbone: Makes the backbone; called once.
        tasks: Names of the tasks in declared order.
        squeeze_excite: Whether each task has its own SE.
        adapters: Whether each task has residual adapters.
        task_norm: Whether each task has its own norms in the stages.
        reduction: Channels of an SE over those of its hidden layer.
        lr_multiplier: Factor of the learning rate of what belongs to one task; None for the number of tasks.

    Raises:
        ConfigurationError: If the backbone has no stages, nothing is modulated, or a number is out of range.

    Source:
        Maninis, Radosavovic and Kokkinos, Attentive Single-Tasking of Multiple Tasks, CVPR 2019, section 3.
        The paper's backbones are SE-ResNets; the places in other families are ours.
    """

    has_cut = False

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        tasks: Sequence[str],
        squeeze_excite: bool = True,
        adapters: bool = True,
        task_norm: bool = True,
        reduction: int = 16,
        lr_multiplier: float | None = None,
    ) -> None:
        super().__init__()
        self.tasks = task_names(tasks)
        if not (squeeze_excite or adapters or task_norm):
            raise ConfigurationError(
                "encoder 'astmt' expects squeeze_excite, adapters or task_norm, got none of them: switch one "
                "on, or use encoder 'shared'"
            )
        self.lr_multiplier = task_multiplier(lr_multiplier, len(self.tasks))
        modulation = Modulation(
            tasks=self.tasks,
            squeeze_excite=squeeze_excite,
            adapters=adapters,
            task_norm=task_norm,
            reduction=reduction,
        )
        self.active = modulation.active
        self.backbone = staged(make_backbone(), "astmt")
        widths = iter(block_widths(self.backbone))
        for stage in self.backbone.stages:
            for place, block in enumerate(stage):
                stage[place] = modulated(block, next(widths), modulation)
        self.channels = dict.fromkeys(self.tasks, self.backbone.channels)
        self.strides = dict.fromkeys(self.tasks, self.backbone.strides)
        self.groups = {task: task for task in self.tasks}
        self.normalisation = self.backbone.normalisation
        self.default_head = self.backbone.default_head

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Pyramids:
        asked = self.asked(tasks)
        if not asked:
            return {}
        features = self.backbone.stem(self.backbone.pad(images))
        return {task: self.backbone.crop(self._levels(features, task), images.shape[-2:]) for task in asked}

    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        own = own_parameters(self, self.tasks)
        separate = {parameter for parameters in own.values() for parameter in parameters}
        users = {self.tasks: [p for p in self.parameters() if p not in separate]}
        for task, parameters in own.items():
            users.setdefault((task,), []).extend(parameters)
        return users

    def lr_multipliers(self) -> dict[Parameter, float]:
        own = own_parameters(self, self.tasks)
        return {p: self.lr_multiplier for parameters in own.values() for p in parameters}

    def _levels(self, features: Tensor, task: str) -> list[Tensor]:
        """The levels of one task's pass, from the stem's features."""
        self.active.name = task
        levels = []
        for stage in self.backbone.stages:
            for block in stage:
                again = stage.recompute and self.training
                features = recomputed(block, features, task) if again else block(features, task)
            levels.append(features)
        return levels


class ModulatedBlock(nn.Module):
    """A block of a backbone that knows whose pass it is in, also when it is computed again for a gradient."""

    def __init__(self, block: nn.Module, gates: nn.Module | None, active: ActiveTask) -> None:
        super().__init__()
        self.block = block
        self.gates = gates
        self.active = active

    def forward(self, features: Tensor, task: str) -> Tensor:
        """Maps ``[B, C, h, w]`` as the block does in the pass of ``task``."""
        if self.active.name != task:  # in a backward pass, the last task's forward pass is long over
            self.active.name = task
        made: Tensor = self.block(features)
        return made if self.gates is None else 2 * self.gates(made)


def modulated(block: nn.Module, channels: int, modulation: Modulation) -> ModulatedBlock:
    """A backbone's block of ``channels`` outputs, with what each task has of its own put in place."""
    gates = None
    if modulation.squeeze_excite:
        place = getattr(block, "se", nn.Identity())
        if place is None:
            block.se = modulation.gates(channels)
        elif any(True for _ in place.parameters()):
            block.se = modulation.copies(place)
        else:
            gates = modulation.gates(channels, neutral=True)  # it scales the shortcut, too
    made = ModulatedBlock(block, gates, modulation.active)
    large = any(isinstance(part, nn.Conv2d) and is_large(part) for part in block.modules())
    _modulate(made, modulation, perceptrons=not large)
    return made


def is_large(convolution: nn.Conv2d) -> bool:
    """Whether a convolution sees more than one pixel."""
    return max(convolution.kernel_size) > 1


def _modulate(module: nn.Module, modulation: Modulation, *, perceptrons: bool) -> None:
    """Puts each task's own beside or in place of the norms, larger convolutions and perceptrons below."""
    for name, part in list(module.named_children()):
        if isinstance(part, PerTask):
            continue
        if isinstance(part, NORMS):
            setattr(module, name, modulation.norm(part))
        elif isinstance(part, nn.Conv2d) and is_large(part):
            setattr(module, name, modulation.convolution(part))
        elif isinstance(part, Mlp) and perceptrons:
            setattr(module, name, modulation.perceptron(part))
        else:
            _modulate(part, modulation, perceptrons=perceptrons)


def block_widths(backbone: Backbone) -> list[int]:
    """Output channels of every block of every stage, in order, as seen on a blank image."""
    widths = []
    with probing(backbone) as images:
        features = backbone.stem(images)
        for stage in backbone.stages:
            for block in stage:
                features = block(features)
                widths.append(int(features.shape[1]))
    return widths
