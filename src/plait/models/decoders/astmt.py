"""DeepLab V3+ shared by all tasks, modulated by each, and a discriminator of the tasks' gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from plait.errors import ConfigurationError
from plait.models.blocks import to_size_of
from plait.models.decoders.base import Decoder, require_alike, resized
from plait.models.modulation import Modulation, own_parameters, task_multiplier
from plait.models.predictions import Predictions
from plait.tasks.base import Task
from plait.tasks.loss import at_least_float32


class ASTMTDecoder(Decoder):
    """DeepLab V3+ that does one task at a time: its weights are shared, its modulation is each task's.

    Atrous pyramid pooling of the last level is resized to the first level, concatenated with that level
    reduced to a few channels, and goes through two 3x3 convolutions to a 1x1 prediction a task. Every
    convolution but that of the image pooling has a 1x1 adapter and, after its norm, squeeze-and-excitation
    (SE) a task; every norm is a task's own.

    With ``adversarial_weight`` a small network learns to tell, at each location, from the direction of the
    gradient of a task's loss with respect to the last features, which task it was; the gradient that this
    sends back is reversed, so the network learns to make the tasks' gradients look alike. Locations where
    the gradient is zero, such as those out of reach of any known pixel, do not count.

    Args:
        tasks: The tasks in declared order, none of them auxiliary.
        channels: Channels of each level, the same for all tasks.
        strides: Stride of each level, the same for all tasks.
        groups: Not used: every task has its own pass.
        default_head: Not used.
        width: Channels inside; the reduced first level has 48/256 of them.
        rates: Dilation of the 3x3 branches; None for 6, 12, 18, twice that if the last stride is 8 or less.
        squeeze_excite: Whether each task has its own SE.
        adapters: Whether each task has residual adapters.
        task_norm: Whether each task has its own batch norms.
        reduction: Channels of an SE over those of its hidden layer; a quarter of that at the reduced level.
        lr_multiplier: Factor of the learning rate of what belongs to one task; None for the number of tasks.
        adversarial_weight: Weight of the discriminator's loss, 0 for none; the paper's is 0.01.
        kernel: Size of the discriminator's two convolutions; the paper's is 1 on PASCAL and 3 on NYUD.

    Training needs at least two images a batch, because the pooling branch normalises over the batch.

    Raises:
        ConfigurationError: If a task is auxiliary, pyramids differ, or a number is out of range.

    Source:
        Maninis, Radosavovic and Kokkinos, Attentive Single-Tasking of Multiple Tasks, CVPR 2019, sections 3
        and 4. There the loss is 0.99 L + 0.01 D; here L keeps its weight and ``adversarial_weight`` times D
        is added. There unlabelled pixels are taken from a resized label map, and the strength of the
        reversal changes with the epoch; here with the step.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[Task],
        channels: Mapping[str, Sequence[int]],
        strides: Mapping[str, Sequence[int]],
        groups: Mapping[str, str] | None = None,
        default_head: str = "fpn",
        width: int = 64,
        rates: Sequence[int] | None = None,
        squeeze_excite: bool = True,
        adapters: bool = True,
        task_norm: bool = True,
        reduction: int = 16,
        lr_multiplier: float | None = None,
        adversarial_weight: float = 0.0,
        kernel: int = 1,
    ) -> None:
        super().__init__()
        if auxiliary := [task.name for task in tasks if task.auxiliary]:
            raise ConfigurationError(
                f"decoder 'astmt' predicts nothing on the way, so it cannot supervise the auxiliary "
                f"{'task' if len(auxiliary) == 1 else 'tasks'} {', '.join(auxiliary)}: leave out what is "
                f"auxiliary, or predict it with auxiliary: false"
            )
        require_alike(channels, strides, "astmt")
        if width < 1 or min(rates or [1]) < 1:
            raise ConfigurationError(
                f"decoder 'astmt' needs a width and rates of 1 or more, got {width} and {list(rates or [])}"
            )
        self.names = tuple(task.name for task in tasks)
        self.lr_multiplier = task_multiplier(lr_multiplier, len(tasks))
        modulation = Modulation(
            tasks=self.names,
            squeeze_excite=squeeze_excite,
            adapters=adapters,
            task_norm=task_norm,
            reduction=reduction,
        )
        self.active = modulation.active
        levels, scale = channels[self.names[0]], 2 if strides[self.names[0]][-1] <= 8 else 1
        reduced = max(48 * width // 256, 1)
        dilations = [rate * scale for rate in (6, 12, 18)] if rates is None else rates
        self.branches = nn.ModuleList(
            [
                modulated_unit(modulation, levels[-1], width, 1),
                *(modulated_unit(modulation, levels[-1], width, 3, dilation=rate) for rate in dilations),
            ]
        )
        self.pooling = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(levels[-1], width, 1, bias=False),
            modulation.norm(nn.BatchNorm2d(width)),
            nn.ReLU(inplace=True),
        )
        self.project = modulated_unit(modulation, width * (len(dilations) + 2), width, 1)
        self.reduce = modulated_unit(modulation, levels[0], reduced, 1, reduction=max(reduction // 4, 1))
        self.fuse = nn.Sequential(
            modulated_unit(modulation, width + reduced, width, 3), modulated_unit(modulation, width, width, 3)
        )
        self.predict = nn.ModuleDict({task.name: nn.Conv2d(width, task.channels, 1) for task in tasks})
        self.adversarial_weight = adversarial_weight
        self.discriminator: GradientDiscriminator | None = None
        if adversarial_weight:
            self.discriminator = _checked_discriminator(width, len(tasks), kernel, adversarial_weight)
        self.reversal = 0.0

    def forward(self, pyramids: Mapping[str, Sequence[Tensor]], size: Sequence[int]) -> Predictions:
        features = {task: self._features(pyramids[task], task) for task in self.names if task in pyramids}
        if self.discriminator is None:
            final = {task: resized(self.predict[task](each), size) for task, each in features.items()}
            return Predictions(final)
        features = {task: at_least_float32(each) for task, each in features.items()}
        return Predictions(self._predictions_to_differentiate(features, size), features=features)

    def loss_penalties(self, predictions: Predictions, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The discriminator's loss, summed over the tasks that have a loss; nothing without gradients."""
        if self.discriminator is None:
            return {}
        terms = [
            self.discriminator(loss, predictions.features[task], self.names.index(task), self.reversal)
            for task, loss in losses.items()
            if loss.requires_grad and predictions.features[task].requires_grad
        ]
        return {"discriminator": self.adversarial_weight * torch.stack(terms).sum()} if terms else {}

    def lr_multipliers(self) -> dict[Parameter, float]:
        own = [p for parameters in own_parameters(self, self.names).values() for p in parameters]
        factors = dict.fromkeys([*own, *self.predict.parameters()], self.lr_multiplier)
        if self.discriminator is not None:
            factors |= dict.fromkeys(self.discriminator.parameters(), 10.0)
        return factors

    def at_step(self, step: int, steps: int) -> None:
        self.reversal = reversal_strength(step / steps)

    def _features(self, pyramid: Sequence[Tensor], task: str) -> Tensor:
        """The last features of a task ``[B, width, h, w]``, at the size of its first level."""
        last = pyramid[-1]
        if last.shape[0] < 2 and any(
            type(part) is nn.BatchNorm2d and part.training for part in self.pooling.modules()
        ):
            raise ConfigurationError(
                "decoder 'astmt' normalises one pooled value an image over the batch: expected at least 2 "
                "images at a time in training, got 1; raise training.batch_size (each of training.accumulate "
                "parts and each process gets its share of it), or use another decoder"
            )
        self.active.name = task
        whole = self.pooling(last).expand(-1, -1, *last.shape[-2:])
        context = self.project(torch.cat([*(branch(last) for branch in self.branches), whole], 1))
        fine = self.reduce(pyramid[0])
        fused: Tensor = self.fuse(torch.cat([to_size_of(fine, context), fine], 1))
        return fused

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _predictions_to_differentiate(
        self, features: Mapping[str, Tensor], size: Sequence[int]
    ) -> dict[str, Tensor]:
        """The final predictions, so that gradients of their gradients can be taken.

        That is: in full precision, because the direction of a gradient in half precision is that of its
        rounding, and not compiled, because the compiler differentiates once only.
        """
        final = {}
        for task, each in features.items():
            with torch.autocast(each.device.type, enabled=False):
                final[task] = resized(self.predict[task](each), size)
        return final


class GradientDiscriminator(nn.Module):
    """Tells from the gradient of a task's loss at its features, place by place, which task it was.

    Two convolutions and a ReLU. Only the direction of the gradient is seen.

    Source:
        Maninis, Radosavovic and Kokkinos, CVPR 2019, section 4; the reversal of gradients is from Ganin and
        Lempitsky, Unsupervised Domain Adaptation by Backpropagation, ICML 2015.
    """

    task_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {"classify.weight": (0,), "classify.bias": (0,)}

    def __init__(self, channels: int, tasks: int, kernel: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.classify = nn.Conv2d(channels, tasks, kernel, padding=kernel // 2)

    def forward(self, loss: Tensor, features: Tensor, place: int, reversal: float) -> Tensor:
        """Cross entropy of taking the gradient for that of the task at ``place``, over the known locations.

        Args:
            loss: The task's loss, a scalar.
            features: What it was computed from, ``[B, C, h, w]``.
            place: The task's place in declared order.
            reversal: What reaches the network is the gradient of this loss times minus ``reversal``.
        """
        with torch.autocast(features.device.type, enabled=False):
            many = features[:, 0].numel()  # times a mean over so many: nothing that vanishes in float32
            (gradient,) = torch.autograd.grad(loss * many, features, create_graph=True)
            length = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            known = length.detach() > torch.finfo(length.dtype).eps
            direction = gradient / length.where(known, 1)
            seen: Tensor = Reversed.apply(direction, reversal)
            logits = self.classify(F.relu(self.hidden(seen)))
            surprise = -logits.log_softmax(1)[:, place, None].where(known, 0)
            mean: Tensor = surprise.sum() / known.sum().clamp(min=1)
        return mean


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by ``-strength``."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reversal_strength(progress: float) -> float:
    """How strongly the gradient is reversed: 2 / (1 + exp(-10 p)) - 1, from 0 at p = 0 to nearly 1 at 1."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


def modulated_unit(
    modulation: Modulation,
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    dilation: int = 1,
    reduction: int | None = None,
) -> nn.Sequential:
    """A convolution that keeps the size, norm, SE and ReLU, with what each task has of its own."""
    padding = dilation * (kernel // 2)
    shared = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(
        modulation.convolution(shared),
        modulation.norm(nn.BatchNorm2d(outputs)),
        modulation.gates(outputs, reduction=reduction),
        nn.ReLU(inplace=True),
    )


def _checked_discriminator(width: int, tasks: int, kernel: int, weight: float) -> GradientDiscriminator:
    if not (math.isfinite(weight) and weight > 0):
        raise ConfigurationError(f"adversarial_weight must be 0 or more and finite, got {weight}")
    if kernel < 1 or kernel % 2 == 0:
        raise ConfigurationError(f"the discriminator's kernel must be odd and 1 or more, got {kernel}")
    if tasks < 2:
        raise ConfigurationError(
            "adversarial_weight needs two tasks or more to tell apart, got 1: leave it at 0"
        )
    return GradientDiscriminator(width, tasks, kernel)
