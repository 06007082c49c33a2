"""The boundary F of the literature (ODS, OIS, AP), without MATLAB."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from plait.errors import ConfigurationError, DataError
from plait.metrics.boundary import scores
from plait.metrics.boundary.compiled import numba
from plait.metrics.boundary.counting import check_distance, match_counts
from plait.metrics.boundary.protocol import ProtocolName, resolve

Map = Tensor | NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall of a split at each threshold, float64 ``[K]``, in [0, 1].

    Attributes:
        thresholds: Ascending.
        precision: Share of predicted pixels that are matched.
        recall: Share of true pixels that are matched.
        f: Their harmonic mean.
        best: The place of the first threshold with the highest F.
    """

    thresholds: Tensor
    precision: Tensor
    recall: Tensor
    f: Tensor
    best: int


class BoundaryF(Metric):
    """F of predicted edge pixels that can be matched one-to-one with true ones nearby.

    At each threshold the predicted edges are thinned to lines of one pixel and matched with the true pixels
    at most ``max_distance`` away. Precision is the share of predicted pixels that are matched, recall that
    of true pixels. Computes, in [0, 1] and NaN without images:

    - ``ods``: F at the best threshold of the split, from counts summed over its images
    - ``ois``: F of the counts at each image's own best threshold, summed over images
    - ``ap``: average precision, the area under precision over recall

    ``update(prediction, target)`` takes probabilities (floating point or uint8) ``[B, 1, H, W]`` and targets
    ``[B, A, H, W]`` of A annotators, an edge from 0.5 on. Where a target is not finite the image is unknown:
    predicted pixels there are left out after thinning, true ones of all annotators too. A prediction that is
    not finite passes no threshold. An image without a known pixel is not counted.

    As many pixels are matched as can be (Pothen and Fan; deterministic). The original evaluators minimise a
    cost in which an unmatched pixel weighs a hundred of the longest matches, and link each outlier to
    six others at random, seeded by the clock: they match a few pixels fewer, and not the same number twice.

    Args:
        protocol: ``"plain"``: probabilities as they are, passing 0.01, 0.02, ..., 0.99 from there on.
            ``"survey"``: the same, truncated to 8 bits first. ``"seism"`` (ATRC, InvPT): 8 bits, non-maximum
            suppression, passing 0.001, 0.01, ..., 0.99, 0.999 only above. ``"bsds"``: as ``"plain"``, but
            the target is not thinned, ODS is interpolated between thresholds, and precision is 0
            where nothing is predicted. Scores under different protocols cannot be compared.
        max_distance: Of a match, as a fraction of the image's diagonal: 0.0075 for BSDS and PASCAL-Context,
            0.011 for NYUD by convention.
        exact_objective: Minimise the cost of the original evaluators instead, exactly and without random
            links. On natural images the counts of a single annotator are the same; it is slower.
        outline: Evaluate against the outline of the target's mask, as is done for NYUD's edge files: one
            line where a stroke is thin, two where it is thick.
        nms: Non-maximum suppression before the thresholds; None leaves it to the protocol.
        thresholds: In place of the protocol's: ascending, in [0, 1].
        workers: How many threads share the images of a batch.

    Raises:
        ConfigurationError: If an option cannot be.

    Source:
        Martin, Fowlkes and Malik, Learning to Detect Natural Image Boundaries, PAMI 2004; Arbelaez et al.,
        Contour Detection and Hierarchical Image Segmentation, PAMI 2011, for ODS, OIS and AP;
        Pont-Tuset and Marques, Supervised Evaluation of Image Segmentation, PAMI 2016, for seism.
    """

    full_state_update = False
    higher_is_better = True
    additive = True
    counts: Tensor
    best_of_images: Tensor
    images: Tensor

    def __init__(
        self,
        *,
        protocol: ProtocolName = "plain",
        max_distance: float = 0.0075,
        exact_objective: bool = False,
        outline: bool = False,
        nms: bool | None = None,
        thresholds: Sequence[float] | None = None,
        workers: int = 1,
    ) -> None:
        super().__init__()
        self.protocol = resolve(protocol, outline=outline, nms=nms, thresholds=thresholds)
        check_distance(max_distance)
        check_workers(workers)
        self.max_distance = max_distance
        self.exact_objective = exact_objective
        self.workers = workers
        size = len(self.protocol.thresholds)
        self.add_state("counts", torch.zeros(size, 4, dtype=torch.int64), "sum")
        self.add_state("best_of_images", torch.zeros(4, dtype=torch.int64), "sum")
        self.add_state("images", torch.tensor(0), "sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds images: probabilities (or uint8) ``[B, 1, H, W]`` and targets ``[B, A, H, W]``."""
        shape, size = list(prediction.shape), list(target.shape)
        if len(shape) != 4 or len(size) != 4 or shape != [size[0], 1, *size[2:]]:
            raise DataError(
                f"expected a prediction [B, 1, H, W] and a target [B, A, H, W] of the same images, "
                f"got {shape} and {size}"
            )
        pairs = zip(as_array(prediction)[:, 0], as_array(target), strict=True)
        for counts in counted(pairs, self, self.workers):
            self.add(counts)

    def count(
        self, prediction: NDArray[np.generic], targets: NDArray[np.generic]
    ) -> NDArray[np.int64] | None:
        """The counts ``[K, 4]`` of one image, which is not added; None if no pixel is known."""
        if not np.isfinite(targets).all(0).any():
            return None
        return match_counts(
            prediction,
            targets,
            self.protocol,
            max_distance=self.max_distance,
            exact_objective=self.exact_objective,
        )

    def add(self, counts: NDArray[np.int64] | None) -> None:
        """Adds an image whose counts :meth:`count` has found."""
        if counts is None:
            return
        # As torchmetrics does around update: what was computed before no longer holds.
        self._computed = None
        self._update_count += 1
        best = scores.best_of_image(counts, interpolate=self.protocol.interpolate)
        self.counts += torch.from_numpy(counts).to(self.counts.device)
        self.best_of_images += torch.from_numpy(best).to(self.counts.device)
        self.images += 1

    def compute(self) -> dict[str, float]:
        return {name: value.item() for name, value in self.measures_of(self.statistics()).items()}

    def statistics(self) -> Tensor:
        """Counts at each threshold, those at the images' own best ones, and images: float64 ``[4 K + 5]``."""
        return torch.cat([self.counts.flatten(), self.best_of_images, self.images[None]]).double()

    def measures_of(self, statistics: Tensor) -> dict[str, Tensor]:
        """The measures for sums over images ``[..., 4 K + 5]``."""
        sums = statistics.cpu().numpy()
        counts, interpolate = sums[..., :-5].reshape(*sums.shape[:-1], -1, 4), self.protocol.interpolate
        found = {
            "ods": scores.ods(counts, interpolate=interpolate),
            "ois": scores.ois(sums[..., -5:-1], interpolate=interpolate),
            "ap": scores.average_precision(counts, interpolate=interpolate),
        }
        seen = sums[..., -1] > 0
        return {name: torch.as_tensor(np.where(seen, value, np.nan)) for name, value in found.items()}

    def curve(self) -> Curve:
        """Precision, recall and F at each threshold, of the images of all processes."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            counts = self.counts.cpu().numpy()
        precision, recall = scores.precision_recall(counts, interpolate=self.protocol.interpolate)
        f = scores.f_measure(precision, recall)
        return Curve(
            torch.tensor(self.protocol.thresholds, dtype=torch.float64),
            torch.from_numpy(precision),
            torch.from_numpy(recall),
            torch.from_numpy(f),
            int(f.argmax()),
        )


def score_images(
    pairs: Iterable[tuple[Map, Map]],
    metric: BoundaryF,
    *,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Adds images of any sizes to a metric, several at a time, and computes it.

    Args:
        pairs: Predictions ``[H, W]`` with targets ``[A, H, W]``; drawn as they are needed, at most two a
            worker ahead.
        metric: What to add them to.
        workers: How many threads count; they compute side by side where Numba is installed.
        progress: Called with the number of images done after each.

    Returns:
        ``metric.compute()``.
    """
    check_workers(workers)
    arrays = ((as_array(prediction), as_array(targets)) for prediction, targets in pairs)
    for done, counts in enumerate(counted(arrays, metric, workers), start=1):
        metric.add(counts)
        if progress is not None:
            progress(done)
    result: dict[str, float] = metric.compute()
    return result


def counted(
    pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]], metric: BoundaryF, workers: int
) -> Iterator[NDArray[np.int64] | None]:
    """The counts of each image, in order, by several threads."""
    if workers == 1:
        yield from (metric.count(*pair) for pair in pairs)
        return
    # Imported before the threads start, so that one import and one message do for all.
    numba()
    waiting: deque[Future[NDArray[np.int64] | None]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for pair in pairs:
                waiting.append(pool.submit(metric.count, *pair))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def as_array(values: Map) -> NDArray[Any]:
    """A tensor on any device as an array; half precision, which NumPy lacks or is slow in, as single."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach()
    if values.is_floating_point() and values.dtype != torch.float64:
        values = values.float()
    array: NDArray[Any] = values.cpu().numpy()
    return array


def check_workers(workers: int) -> None:
    """Raises :class:`ConfigurationError` unless there is at least one."""
    if workers < 1:
        raise ConfigurationError(f"workers must be 1 or more, got {workers}")
