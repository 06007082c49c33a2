"""Depth errors, pooled over all known pixels of a split."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from plait.errors import ConfigurationError
from plait.metrics.counts import floats

DepthProtocol = Literal["plain", "survey"]


class DepthErrors(Metric):
    """Errors of metric depth over every known pixel of a split; nothing is averaged over images.

    Computes, for prediction p and target g in metres:

    - ``rmse``: root of the mean of (p - g)^2, metres
    - ``log_rmse``: the same of natural logarithms
    - ``abs_rel``: mean of abs(p - g) / g
    - ``sq_rel``: mean of (p - g)^2 / g, metres
    - ``delta1``, ``delta2``, ``delta3``: share of pixels with max(p / g, g / p) < 1.25, 1.25^2, 1.25^3

    All are NaN if no pixel was known. A target is known where it is finite and positive. A NaN prediction
    makes the errors NaN and is outside every bound, under either protocol.

    Args:
        protocol: What becomes of a prediction that is not positive. ``"plain"``: errors take it as it is;
            for the logarithm predictions are raised to a millimetre, and its ratio counts as infinite.
            ``"survey"``: it is replaced by 1e-9 m everywhere, which adds about 20^2 a pixel to the mean
            behind ``log_rmse``. The two agree where predictions are at least a millimetre.

    Source:
        Eigen, Puhrsch and Fergus, NeurIPS 2014, for the measures; the survey's and InvPT's code for the
        pooling. ASTMT's figures average over images and count invalid pixels: they are not comparable.
    """

    full_state_update = False
    higher_is_better = False
    pixels: Tensor
    squares: Tensor
    log_squares: Tensor
    relative: Tensor
    relative_squares: Tensor
    within: Tensor

    def __init__(self, *, protocol: DepthProtocol = "plain") -> None:
        super().__init__()
        if protocol not in get_args(DepthProtocol):
            raise ConfigurationError(f"the depth protocol is 'plain' or 'survey', got {protocol!r}")
        self.protocol = protocol
        self.add_state("pixels", torch.tensor(0), "sum")
        for name in ("squares", "log_squares", "relative", "relative_squares"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), "sum")
        self.add_state("within", torch.zeros(3, dtype=torch.int64), "sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch: maps of one shape, in metres; the target is NaN where unknown."""
        if prediction.shape != target.shape:
            raise ValueError(
                f"expected a prediction of shape {list(target.shape)}, got {list(prediction.shape)}"
            )
        known = target.isfinite() & (target > 0)
        depth, truth = prediction[known].double(), target[known].double()
        if self.protocol == "survey":
            depth = depth.masked_fill(depth <= 0, 1e-9)
            positive = depth
        else:
            positive = depth.clamp(min=1e-3)
        error = depth - truth
        self.pixels += len(truth)
        self.squares += error.square().sum()
        self.log_squares += (positive.log() - truth.log()).square().sum()
        self.relative += (error.abs() / truth).sum()
        self.relative_squares += (error.square() / truth).sum()
        # A negative ratio is below 1.25, so a prediction that is not positive is excluded by name.
        ratio = torch.maximum(depth / truth, truth / depth).where(depth > 0, torch.inf)
        self.within += torch.stack([(ratio < 1.25**power).sum() for power in (1, 2, 3)])

    def compute(self) -> dict[str, float]:
        within = self.within / self.pixels.double()
        return floats(
            rmse=(self.squares / self.pixels).sqrt(),
            log_rmse=(self.log_squares / self.pixels).sqrt(),
            abs_rel=self.relative / self.pixels,
            sq_rel=self.relative_squares / self.pixels,
            delta1=within[0],
            delta2=within[1],
            delta3=within[2],
        )
