"""Errors of depth and inverse depth, pooled over all known pixels of a split."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from plait.errors import ConfigurationError
from plait.metrics.counts import floats, gather, require_one_shape, stacked

DepthProtocol = Literal["plain", "survey", "invpt", "astmt"]


class DepthErrors(Metric):
    """Errors of metric depth over every known pixel of a split; nothing is averaged over images.

    Computes, for prediction p and target g in metres:

    - ``rmse``: root of the mean of (p - g)^2, metres
    - ``log_rmse``: the same of natural logarithms
    - ``abs_rel``: mean of abs(p - g) / g
    - ``sq_rel``: mean of (p - g)^2 / g, metres
    - ``delta1``, ``delta2``, ``delta3``: share of pixels with max(p / g, g / p) < 1.25, 1.25^2, 1.25^3

    All are NaN if no pixel was known. A target is known where it is finite and positive. A NaN prediction
    makes the errors NaN and is outside every bound, under any protocol.

    Args:
        protocol: What becomes of a prediction that is not positive. ``"plain"``: errors take it as it is;
            for the logarithm predictions are raised to a millimetre, and its ratio counts as infinite.
            ``"survey"`` and ``"invpt"``: it is replaced by 1e-9 m everywhere, which adds about 20^2 a pixel
            to the mean behind ``log_rmse`` (the survey replaces it as it is, InvPT raises it to zero
            first). All agree where predictions are at least a millimetre.
            ``"astmt"``: of each image the RMSE and the log-RMSE; ``rmse`` is their mean over images and
            ``log_rmse`` their median. Here, as in that code, predictions that are not positive and unknown
            targets alike become 1e-9 m, so unknown pixels count as if they lay at the camera; an image
            without a known pixel counts too. No other measure is computed.

    Source:
        Eigen, Puhrsch and Fergus, NeurIPS 2014, for the measures; the survey's and InvPT's code for the
        pooling, ASTMT's for its own. The numbers of ASTMT's protocol cannot be compared with the others.
    """

    full_state_update = False
    higher_is_better = False
    pixels: Tensor
    squares: Tensor
    log_squares: Tensor
    relative: Tensor
    relative_squares: Tensor
    within: Tensor
    images: Tensor
    rmse_sum: Tensor
    log_rmses: list[Tensor]

    def __init__(self, *, protocol: DepthProtocol = "plain") -> None:
        super().__init__(dist_sync_fn=gather)
        if protocol not in get_args(DepthProtocol):
            raise ConfigurationError(
                f"the depth protocol is one of {', '.join(get_args(DepthProtocol))}; got {protocol!r}"
            )
        self.protocol = protocol
        self.additive = protocol != "astmt"  # which takes a median over images
        if protocol == "astmt":
            self.add_state("images", torch.tensor(0), "sum")
            self.add_state("rmse_sum", torch.tensor(0.0, dtype=torch.float64), "sum")
            self.add_state("log_rmses", [], "cat")
            return
        self.add_state("pixels", torch.tensor(0), "sum")
        for name in ("squares", "log_squares", "relative", "relative_squares"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), "sum")
        self.add_state("within", torch.zeros(3, dtype=torch.int64), "sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch: maps of one shape, in metres; the target is NaN where unknown."""
        require_one_shape(prediction, target)
        known = target.isfinite() & (target > 0)
        if self.protocol == "astmt":
            self._add_images(prediction.double(), target.double().where(known, 1e-9))
            return
        depth, truth = prediction[known].double(), target[known].double()
        if self.protocol == "plain":
            positive = depth.clamp(min=1e-3)
        else:
            depth = positive = depth.masked_fill(depth <= 0, 1e-9)
        error = depth - truth
        self.pixels += len(truth)
        self.squares += error.square().sum()
        self.log_squares += (positive.log() - truth.log()).square().sum()
        self.relative += (error.abs() / truth).sum()
        self.relative_squares += (error.square() / truth).sum()
        # A negative ratio is below 1.25, so a prediction that is not positive is excluded by name.
        ratio = torch.maximum(depth / truth, truth / depth).where(depth > 0, torch.inf)
        self.within += torch.stack([(ratio < 1.25**power).sum() for power in (1, 2, 3)])

    def _add_images(self, depth: Tensor, truth: Tensor) -> None:
        depth = depth.masked_fill(depth <= 0, 1e-9)
        self.images += len(depth)
        self.rmse_sum += (depth - truth).square().flatten(1).mean(1).sqrt().sum()
        self.log_rmses.append((depth.log() - truth.log()).square().flatten(1).mean(1).sqrt())

    def compute(self) -> dict[str, float]:
        if self.protocol == "astmt":
            return floats(rmse=self.rmse_sum / self.images, log_rmse=self._median())
        return floats(**self.measures_of(self.statistics()))

    def statistics(self) -> Tensor:
        """Known pixels, sums of the four errors, and pixels within each bound: float64 ``[8]``."""
        sums = (self.pixels, self.squares, self.log_squares, self.relative, self.relative_squares)
        return stacked(*sums, *self.within)

    def measures_of(self, statistics: Tensor) -> dict[str, Tensor]:
        """The measures for sums over images ``[..., 8]``."""
        pixels, squares, log_squares, relative, relative_squares, *within = statistics.unbind(-1)
        return {
            "rmse": (squares / pixels).sqrt(),
            "log_rmse": (log_squares / pixels).sqrt(),
            "abs_rel": relative / pixels,
            "sq_rel": relative_squares / pixels,
            **{f"delta{power}": count / pixels for power, count in enumerate(within, start=1)},
        }

    def _median(self) -> Tensor:
        """The middle log-RMSE, or the mean of the two middle ones; NaN without images."""
        gathered = self.log_rmses if isinstance(self.log_rmses, list) else [self.log_rmses]
        return torch.cat(gathered).quantile(0.5) if self.images else torch.tensor(torch.nan)


class AbsoluteErrors(Metric):
    """Absolute and relative errors of depth or inverse depth over every known pixel of a split.

    Computes, for prediction p and target g: ``abs_err``, the mean of abs(p - g), ``rel_err``, the mean of
    abs(p - g) / g over the pixels with g > 0, and ``rmse``. All are NaN if no pixel was known; a NaN
    prediction makes them NaN. A target is known where it is finite and not negative.

    Args:
        zero_is_known: Whether a target of 0 counts: inverse depth at infinity. Of depth it marks the unknown.

    Source:
        Liu, Johns and Davison, CVPR 2019 (MTAN), in the form of LibMTL's code, which divides by the known
        pixels of each batch and weights the quotients by them again: the same as pooling.
    """

    full_state_update = False
    higher_is_better = False
    additive = True
    pixels: Tensor
    positive: Tensor
    absolute: Tensor
    relative: Tensor
    squares: Tensor

    def __init__(self, *, zero_is_known: bool = True) -> None:
        super().__init__()
        self.zero_is_known = zero_is_known
        self.add_state("pixels", torch.tensor(0), "sum")
        self.add_state("positive", torch.tensor(0), "sum")
        for name in ("absolute", "relative", "squares"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), "sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds a batch: maps of one shape and unit; the target is NaN where unknown."""
        require_one_shape(prediction, target)
        known = target.isfinite() & ((target >= 0) if self.zero_is_known else (target > 0))
        values, truth = prediction[known].double(), target[known].double()
        error = (values - truth).abs()
        finite = truth > 0
        self.pixels += len(truth)
        self.positive += finite.sum()
        self.absolute += error.sum()
        self.relative += (error[finite] / truth[finite]).sum()
        self.squares += error.square().sum()

    def compute(self) -> dict[str, float]:
        return floats(**self.measures_of(self.statistics()))

    def statistics(self) -> Tensor:
        """Known pixels, those with a positive target, and sums of the three errors: float64 ``[5]``."""
        return stacked(self.pixels, self.positive, self.absolute, self.relative, self.squares)

    def measures_of(self, statistics: Tensor) -> dict[str, Tensor]:
        """The measures for sums over images ``[..., 5]``."""
        pixels, positive, absolute, relative, squares = statistics.unbind(-1)
        return {
            "abs_err": absolute / pixels,
            "rel_err": relative / positive,
            "rmse": (squares / pixels).sqrt(),
        }
