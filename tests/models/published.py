"""The published networks on parameters filled by a rule that sees only shapes."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FILES = Path(__file__).parents[1] / "data" / "models"


def fill(network: nn.Module) -> None:
    """Sets every parameter to a function of its shape, whatever its name is."""
    for parameter in network.parameters():
        size, shape = parameter.numel(), parameter.shape
        i = torch.arange(size, dtype=torch.float64)
        if parameter.dim() in (2, 4):
            values = (2 * shape[0] / size) ** 0.5 * torch.cos(0.7 * i + 0.1 * (i % 11))
        else:
            values = (0.4 + 0.1 * torch.cos(i[: shape[-1]])).repeat(size // shape[-1])
        parameter.data = values.view(shape)


def waves(height: int, width: int, shift: float) -> Tensor:
    """Two images of waves, float64."""
    image = torch.arange(2, dtype=torch.float64).view(2, 1, 1, 1)
    channel = torch.arange(3, dtype=torch.float64).view(1, 3, 1, 1)
    row = torch.arange(height, dtype=torch.float64).view(1, 1, height, 1)
    column = torch.arange(width, dtype=torch.float64).view(1, 1, 1, width)
    return torch.sin(0.05 * row + 0.07 * column * (channel + 1) + image + shift)


def compare(output: Tensor, published: np.ndarray) -> float:
    """The largest difference at the stored pixels, relative to the largest published value."""
    step = max(1, output.shape[-1] // 8)
    expected = torch.from_numpy(published)
    return float((output[..., ::step, ::step] - expected).abs().max() / expected.abs().max())
