"""The losses: sums over known pixels, divided by counts that depend on the target alone.

Every term is a small frozen value with two methods (see :class:`plait.tasks.base.Loss`): ``counts`` gives
the denominators' ingredients, which add up over images, micro-batches and processes; calling the term
gives this batch's share. Shares computed with the summed counts add up to the loss of the whole batch.

Unknown pixels are replaced before any arithmetic, so a NaN in a target reaches neither a loss nor a
gradient. Terms compute in float32 at least; float64 stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from plait.data.labels import UNKNOWN_CLASS
from plait.errors import ConfigurationError
from plait.registry import nearest


class Term(Protocol):
    """One loss term: a :class:`plait.tasks.base.Loss` that says how many numbers its counts are."""

    statistics: ClassVar[int]

    def counts(self, target: Tensor) -> Tensor: ...

    def __call__(self, prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor: ...


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or unchanged if it is float64: half precision is for networks, not for sums."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def unit(vectors: Tensor) -> Tensor:
    """Vectors ``[B, C, ...]`` scaled to length one along dimension 1; a zero vector stays zero.

    Scaling by the largest component first keeps huge vectors from overflowing; below a largest component of
    1e-6 vectors stay shorter than one, which bounds the gradient.
    """
    # The result does not depend on the scale, so the scale carries no gradient.
    scaled = vectors / vectors.detach().abs().amax(1, keepdim=True).clamp(min=1e-6)
    length: Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / length.clamp(min=1)


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross-entropy, averaged over known pixels or, with class weights, over their weights.

    Logits ``[B, K, H, W]``, target int64 ``[B, 1, H, W]``.

    Args:
        class_weights: One weight a class, or None for equal ones.
        ignore: Class ids that count as unknown, beside 255.
        skip_empty: Whether an image (or crop) on which no class but 0 is seen counts as unknown, as the
            training transform for human parts has it.

    Source:
        Vandenhende et al., Multi-Task Learning for Dense Prediction Tasks: A Survey, TPAMI 2021, and its
        code.
    """

    statistics: ClassVar[int] = 1

    class_weights: tuple[float, ...] | None = None
    ignore: tuple[int, ...] = ()
    skip_empty: bool = False

    def counts(self, target: Tensor) -> Tensor:
        target = self._known(target)
        known = target != UNKNOWN_CLASS
        if self.class_weights is None:
            return known.sum(dtype=torch.float64)[None]
        weights = _constants(self.class_weights, target)
        return weights[target.where(known, 0)].where(known, 0).sum()[None]

    def __call__(self, prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        _require_same_size(prediction, target)
        logits = at_least_float32(prediction)
        weights = None if self.class_weights is None else _constants(self.class_weights, logits)
        total = F.cross_entropy(
            logits,
            self._known(target).squeeze(1),
            weight=weights,
            ignore_index=UNKNOWN_CLASS,
            reduction="sum",
        )
        return _share(total, self.counts(target) if counts is None else counts)

    def _known(self, target: Tensor) -> Tensor:
        return without(target, self.ignore, skip_empty=self.skip_empty)


def without(target: Tensor, ignore: tuple[int, ...], *, skip_empty: bool = False) -> Tensor:
    """Class ids ``[B, ...]`` with the ignored ones, and images that show class 0 only, turned into 255."""
    for number in ignore:
        target = target.masked_fill(target == number, UNKNOWN_CLASS)
    if skip_empty:
        shows = ((target != 0) & (target != UNKNOWN_CLASS)).flatten(1).any(1)
        target = target.masked_fill(~shows.view(-1, *[1] * (target.ndim - 1)), UNKNOWN_CLASS)
    return target


@dataclass(frozen=True)
class BalancedBCE:
    """Sigmoid cross-entropy in which positive and negative pixels are weighted by w and 1 - w.

    Logits and target ``[B, 1, H, W]``; a target counts as positive from 0.5, and is NaN where unknown. The
    sum is divided by the number of known pixels.

    Args:
        positive_weight: w in [0, 1], or ``"batch"`` for the share of negative pixels in the batch.

    Source:
        Survey code (w = 0.95 for edges, ``"batch"`` for saliency). There every pixel counts as known; here
        the unknown ones enter neither the sum, nor w, nor the denominator.
    """

    statistics: ClassVar[int] = 2

    positive_weight: float | Literal["batch"] = "batch"

    def counts(self, target: Tensor) -> Tensor:
        positive, known = target >= 0.5, target.isfinite()
        return torch.stack([(known & positive).sum(), (known & ~positive).sum()]).double()

    def __call__(self, prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        _require_same_shape(prediction, target)
        counts = self.counts(target) if counts is None else counts
        positive, known = target >= 0.5, target.isfinite()
        logits = at_least_float32(prediction).where(known, 0)
        error = -F.logsigmoid(logits.where(positive, -logits))
        weight = self._weight(counts)
        weighted = torch.where(positive, weight * error, (1 - weight) * error)
        return _share(weighted.where(known, 0).sum(), counts.sum())

    def _weight(self, counts: Tensor) -> Tensor | float:
        if self.positive_weight != "batch":
            return self.positive_weight
        # Rounded to float32 whatever the logits are, as the published code has it.
        return counts[1].float() / counts.sum().float().clamp(min=1)


@dataclass(frozen=True)
class DepthL1:
    """Mean absolute error in metres over the pixels whose depth is known; maps ``[B, 1, H, W]`` in metres."""

    statistics: ClassVar[int] = 1

    def counts(self, target: Tensor) -> Tensor:
        return known_depth(target).sum(dtype=torch.float64)[None]

    def __call__(self, prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        residual, _ = _depth_residual(prediction, target)
        return _share(residual.abs().sum(), self.counts(target) if counts is None else counts)


@dataclass(frozen=True)
class InverseDepthL1:
    """Mean absolute error over the pixels whose inverse depth is known; maps ``[B, 1, H, W]``."""

    statistics: ClassVar[int] = 1

    def counts(self, target: Tensor) -> Tensor:
        return known_inverse_depth(target).sum(dtype=torch.float64)[None]

    def __call__(self, prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        _require_same_shape(prediction, target)
        known = known_inverse_depth(target)
        residual = (at_least_float32(prediction) - target.where(known, 0)).where(known, 0)
        return _share(residual.abs().sum(), self.counts(target) if counts is None else counts)


@dataclass(frozen=True)
class DepthLogL1:
    """Mean absolute difference of natural logarithms over the pixels whose depth is known.

    Args:
        floor: Metres below which the prediction's logarithm is continued by its tangent, so that a prediction
            that is not positive has a finite loss and is still pushed up.
    """

    statistics: ClassVar[int] = 1

    floor: float = 0.1

    def counts(self, target: Tensor) -> Tensor:
        return known_depth(target).sum(dtype=torch.float64)[None]

    def __call__(self, prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        residual, _ = _log_residual(prediction, target, self.floor)
        return _share(residual.abs().sum(), self.counts(target) if counts is None else counts)


@dataclass(frozen=True)
class ScaleInvariantLog:
    """Of each image: mean of d^2 minus ``variance_focus`` times the squared mean of d, d the log difference.

    The loss is the mean over the images with a known pixel, so that it adds up over any split by images.

    Args:
        variance_focus: Eigen's lambda: 0 is the squared log error, 1 does not see the image's scale.
        floor: As in :class:`DepthLogL1`.

    Source:
        Eigen, Puhrsch and Fergus, Depth Map Prediction from a Single Image, NeurIPS 2014, eq. 4.
    """

    statistics: ClassVar[int] = 1

    variance_focus: float = 0.5
    floor: float = 0.1

    def counts(self, target: Tensor) -> Tensor:
        return known_depth(target).flatten(1).any(1).sum(dtype=torch.float64)[None]

    def __call__(self, prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        residual, known = _log_residual(prediction, target, self.floor)
        pixels = known.flatten(1).sum(1).clamp(min=1)
        mean = residual.flatten(1).sum(1) / pixels
        mean_square = residual.square().flatten(1).sum(1) / pixels
        total = (mean_square - self.variance_focus * mean.square()).sum()
        return _share(total, self.counts(target) if counts is None else counts)


@dataclass(frozen=True)
class BerHu:
    """Reverse Huber: absolute below a threshold c, quadratic above; the mean over known pixels, in metres.

    c is ``fraction`` of the largest absolute error of the image and carries no gradient. The paper's maximum
    runs over the batch, which would make the loss depend on how a batch is cut into micro-batches and
    processes; an image's own maximum does not.

    Source:
        Laina et al., Deeper Depth Prediction with Fully Convolutional Residual Networks, 3DV 2016, eq. 1.
    """

    statistics: ClassVar[int] = 1

    fraction: float = 0.2

    def counts(self, target: Tensor) -> Tensor:
        return known_depth(target).sum(dtype=torch.float64)[None]

    def __call__(self, prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        residual, _ = _depth_residual(prediction, target)
        error = residual.abs()
        # A micrometre keeps the quadratic branch finite where all errors are zero.
        threshold = (self.fraction * error.detach().amax((1, 2, 3), keepdim=True)).clamp(min=1e-6)
        quadratic = (error * (error / threshold) + threshold) / 2
        total = torch.where(error <= threshold, error, quadratic).sum()
        return _share(total, self.counts(target) if counts is None else counts)


@dataclass(frozen=True)
class DepthSobel:
    """Mean absolute difference of horizontal and vertical Sobel slopes, in metres a pixel.

    The kernels are divided by 8, so that a plane's slope is its own. A slope counts where all nine pixels
    under the kernel are known and inside the image; the denominator counts both directions.

    Source:
        Maninis, Radosavovic and Kokkinos, Attentive Single-Tasking of Multiple Tasks, CVPR 2019 (added to
        L1).
    """

    statistics: ClassVar[int] = 1

    def counts(self, target: Tensor) -> Tensor:
        return 2 * _known_around(known_depth(target)).sum(dtype=torch.float64)[None]

    def __call__(self, prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        # Sobel is linear: the difference of slopes is the slope of the difference. Written as slices because
        # autocast would run a convolution in half precision.
        residual, known = _depth_residual(prediction, target)
        across = residual[..., 2:] - residual[..., :-2]
        down = residual[..., 2:, :] - residual[..., :-2, :]
        across = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 8
        down = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 8
        total = (across.abs() + down.abs()).where(_known_around(known), 0).sum()
        return _share(total, self.counts(target) if counts is None else counts)


@dataclass(frozen=True)
class NormalsL1:
    """Mean absolute difference of components between the normalised prediction and the unit target.

    Maps ``[B, 3, H, W]``; the target is NaN where unknown. The denominator counts components, three a pixel.

    Source:
        Survey code.
    """

    statistics: ClassVar[int] = 1

    def counts(self, target: Tensor) -> Tensor:
        return target.shape[1] * _known_vectors(target).sum(dtype=torch.float64)[None]

    def __call__(self, prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        _require_same_shape(prediction, target)
        known = _known_vectors(target)
        direction = unit(at_least_float32(prediction).where(known, 0))
        total = (direction - target.where(known, 0)).abs().sum()
        return _share(total, self.counts(target) if counts is None else counts)


@dataclass(frozen=True)
class NormalsCosine:
    """Mean of 1 minus the cosine between prediction and target ``[B, 3, H, W]``, over known pixels."""

    statistics: ClassVar[int] = 1

    def counts(self, target: Tensor) -> Tensor:
        return _known_vectors(target).sum(dtype=torch.float64)[None]

    def __call__(self, prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        _require_same_shape(prediction, target)
        known = _known_vectors(target)
        direction = unit(at_least_float32(prediction).where(known, 0))
        cosine = (direction * target.where(known, 0)).sum(1, keepdim=True)
        total = (1 - cosine).where(known, 0).sum()
        return _share(total, self.counts(target) if counts is None else counts)


@dataclass(frozen=True)
class WeightedSum:
    """A weighted sum of terms, each over its own denominators.

    Args:
        terms: Weights and terms.
        link: Logits to what the terms compare (depth: metres); the identity by default.
    """

    terms: tuple[tuple[float, Term], ...]
    link: Callable[[Tensor], Tensor] = at_least_float32

    def counts(self, target: Tensor) -> Tensor:
        """The terms' counts, one after the other: float64 ``[K]``."""
        return torch.cat([term.counts(target) for _, term in self.terms])

    def __call__(self, prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        counts = self.counts(target) if counts is None else counts
        linked = self.link(prediction)
        parts = torch.split(counts, [term.statistics for _, term in self.terms])
        shares = [
            weight * term(linked, target, part)
            for (weight, term), part in zip(self.terms, parts, strict=True)
        ]
        return torch.stack(shares).sum()


def weighted_sum(
    loss: str | Mapping[str, float],
    known: Mapping[str, Callable[[], Term]],
    *,
    link: Callable[[Tensor], Tensor] = at_least_float32,
) -> WeightedSum:
    """The loss that ``"l1"`` or ``{"l1": 1.0, "sobel": 0.5}`` names.

    Args:
        loss: A term's name, or names with their weights.
        known: The names a kind of task has, and what makes each term.
        link: See :class:`WeightedSum`.

    Raises:
        ConfigurationError: If a name is unknown, a weight is negative or not finite, or nothing is left.
    """
    weights = {loss: 1.0} if isinstance(loss, str) else dict(loss)
    for name, weight in weights.items():
        if name not in known:
            raise ConfigurationError(
                f"unknown loss term {name!r}{nearest(name, known)}; this kind of task has {', '.join(known)}"
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigurationError(f"the weight of loss term {name!r} must be 0 or more, got {weight}")
    if not any(weights.values()):
        raise ConfigurationError(f"a loss needs a term with a positive weight, got {weights}")
    return WeightedSum(
        tuple((float(weight), known[name]()) for name, weight in weights.items() if weight), link
    )


def known_depth(target: Tensor) -> Tensor:
    """Where a depth map is known: finite and positive (no logarithm or ratio is taken of anything else)."""
    return target.isfinite() & (target > 0)


def known_inverse_depth(target: Tensor) -> Tensor:
    """Where a map of inverse depth is known: finite and not negative; 0 is infinitely far away."""
    return target.isfinite() & (target >= 0)


def _known_vectors(target: Tensor) -> Tensor:
    return target.isfinite().all(1, keepdim=True)


def _known_around(known: Tensor) -> Tensor:
    """Where all nine pixels of a 3x3 window are known, for the windows inside the map."""
    rows = known[..., :-2, :] & known[..., 1:-1, :] & known[..., 2:, :]
    return rows[..., :-2] & rows[..., 1:-1] & rows[..., 2:]


def _depth_residual(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    _require_same_shape(prediction, target)
    known = known_depth(target)
    return (at_least_float32(prediction) - target.where(known, 0)).where(known, 0), known


def _log_residual(prediction: Tensor, target: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    _require_same_shape(prediction, target)
    known = known_depth(target)
    depth = at_least_float32(prediction).where(known, 1)
    log_depth = depth.clamp(min=floor).log() + (depth - floor).clamp(max=0) / floor
    return (log_depth - target.where(known, 1).log()).where(known, 0), known


def _share(total: Tensor, count: Tensor) -> Tensor:
    """``total / count``, or zero where nothing is counted; never looks at a value, so never synchronises."""
    count = count.to(total).reshape(())
    return total / count.where(count > 0, 1)


def _constants(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Constants beside a tensor, copied without waiting for the device."""
    dtype = like.dtype if like.is_floating_point() else torch.float64
    return torch.tensor(values, dtype=dtype).to(like.device, non_blocking=True)


def _require_same_shape(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(
            f"expected a prediction of the target's shape {list(target.shape)}, got {list(prediction.shape)}"
        )


def _require_same_size(prediction: Tensor, target: Tensor) -> None:
    expected = (len(prediction), 1, *prediction.shape[-2:])
    if target.shape != expected:
        raise ValueError(f"expected class ids of shape {list(expected)}, got {list(target.shape)}")
