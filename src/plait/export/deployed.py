"""A trained network as it is deployed: pictures in, maps in units out, everything between inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait.data.transforms import FILL, fitted
from plait.errors import ConfigurationError
from plait.inference.predictor import Predictor
from plait.inference.sizing import fading
from plait.models.blocks import cut
from plait.tasks.base import Task
from plait.training.evaluate import Maps, activated

INPUT = "image"
"""The name of the exported model's input."""


@dataclass(frozen=True)
class Output:
    """One named output of an exported model.

    Attributes:
        name: Its name.
        task: What it is of.
        probabilities: Whether it holds the probability of every class, not the task's decoded map.
    """

    name: str
    task: Task
    probabilities: bool = False

    @property
    def ids(self) -> bool:
        """Whether its values are class ids."""
        return bool(self.task.classes) and not self.probabilities

    @property
    def dtype(self) -> str:
        """``uint8`` for class ids (255: none), else ``float32``."""
        return "uint8" if self.ids else "float32"

    @property
    def components(self) -> int:
        """Numbers a pixel, on a last axis of their own if there are several."""
        return 1 if self.ids else self.task.channels

    @property
    def unit(self) -> str:
        """Of the values: ``"m"``, or empty."""
        return "" if self.probabilities else self.task.unit

    @property
    def meaning(self) -> str:
        """What a value is, in a few words."""
        return "probability of each class" if self.probabilities else self.task.meaning

    def laid_out(self, maps: Tensor) -> Tensor:
        """Maps ``[B, C, H, W]`` as the output has them: ``[B, H, W]``, or ``[B, H, W, C]``."""
        if self.components > 1:
            return maps.permute(0, 2, 3, 1)
        return maps[:, 0].to(torch.uint8) if self.ids else maps[:, 0]

    def taken_apart(self, values: Tensor) -> Tensor:
        """What :meth:`laid_out` made, as maps ``[B, C, H, W]`` again; class ids int64."""
        if self.components > 1:
            return values.permute(0, 3, 1, 2)
        return values[:, None].long() if self.ids else values[:, None]


class Deployed(nn.Module):
    """Pictures of any size to the maps of a predictor, in the same units.

    It fits pictures into the network's size, normalises them, runs the network, brings its maps back to the
    pictures' size and decides, as :class:`~plait.inference.predictor.Predictor` does with arrays, but in
    operations that can be exported.

    Args:
        predictor: What it is made of; its network is shared, not copied, and what its encoder chose in
            training is settled until it is trained again.
        probabilities: Whether tasks with classes also give the probability of every class.

    Raises:
        ConfigurationError: If a task is called as an input or another output of the model.
    """

    def __init__(self, predictor: Predictor, *, probabilities: bool = False) -> None:
        super().__init__()
        self.network = predictor.model
        self.network.encoder.settle()
        self.tasks = predictor.tasks
        self.names = [task.name for task in predictor.tasks]
        self.sizing = predictor.sizing
        self.evaluation = predictor.sizing.evaluation(flip=predictor.flip)
        self.outputs = tuple(_outputs(predictor.tasks, probabilities))
        mean, deviation = (torch.tensor(part, dtype=torch.float32) for part in self.network.normalisation)
        self.register_buffer("padding_colour", torch.tensor(FILL)[:, None, None], persistent=False)
        self.register_buffer("colour_offset", self.padding_colour - mean[:, None, None], persistent=False)
        self.register_buffer("colour_scale", 1 / deviation[:, None, None], persistent=False)
        self.eval()
        self.network.encoder.settle()

    padding_colour: Tensor
    colour_offset: Tensor
    colour_scale: Tensor

    def forward(self, image: Tensor) -> Maps:
        """Pictures uint8 ``[B, H, W, 3]``, RGB, to ``{output: values}`` at their size, laid out for use."""
        return self.decided(self.undecided(image))

    def undecided(self, image: Tensor) -> Maps:
        """Pictures to activated maps ``{task: [B, C, H, W]}`` at their size, before anything is decided."""
        height, width = image.shape[1], image.shape[2]
        pixels = image.permute(0, 3, 1, 2).float()
        canvas = None if self.sizing.size is None else (self.sizing.size[0], self.sizing.size[1])
        inside = (height, width) if canvas is None else fitted((height, width), canvas)
        pixels = resized(pixels, (height, width), inside)
        pixels = pixels / 255 - self.padding_colour  # the padding, which is zero, then has this colour
        if canvas is not None and not (known(inside) and inside == canvas):
            pixels = F.pad(pixels, (0, canvas[1] - inside[1], 0, canvas[0] - inside[0]))
        pixels = (pixels + self.colour_offset) * self.colour_scale
        network = partial(self.network, tasks=self.names)
        maps = activated(network, pixels, self.tasks, self.evaluation, fading)
        if canvas is not None:
            maps = {
                name: resized(cut(values, inside), inside, (height, width)) for name, values in maps.items()
            }
        return maps

    def decided(self, maps: Mapping[str, Tensor]) -> Maps:
        """Activated maps at the pictures' size to ``{output: values}``."""
        return {
            output.name: output.laid_out(
                maps[output.task.name] if output.probabilities else output.task.decide(maps[output.task.name])
            )
            for output in self.outputs
        }


def resized(maps: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Maps ``[B, C, *before]`` at the size ``after``, bilinearly, smoothed where they shrink.

    Sizes may only be known when an exported model runs. Where they are known and nothing shrinks, smoothing
    would change nothing and is left out: not every runtime has it.
    """
    fixed = known((*before, *after))
    if fixed and tuple(before) == tuple(after):
        return maps
    shrinks = not fixed or any(small < large for small, large in zip(after, before, strict=True))
    return F.interpolate(maps, size=list(after), mode="bilinear", align_corners=False, antialias=shrinks)


def known(sides: Sequence[int]) -> bool:
    """Whether sides are numbers: to ask anything of one that only an exported model will know fixes it."""
    return all(isinstance(side, int) for side in sides)


def _outputs(tasks: Sequence[Task], probabilities: bool) -> list[Output]:
    found = [Output(task.name, task) for task in tasks]
    if probabilities:
        found += [Output(f"{task.name}_probabilities", task, True) for task in tasks if task.classes]
    names = [INPUT, *(output.name for output in found)]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ConfigurationError(
                f"an exported model would have {name!r} twice among its input and outputs: leave that task "
                f"out, or name it otherwise in the recipe"
            )
    return found
