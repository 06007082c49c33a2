"""How good a prediction is: measures pooled over a split, and the relative gain.

Every metric is a ``torchmetrics.Metric`` that counts and divides at the end, so neither batching nor the
number of processes changes a number. ``update(prediction, target)`` takes maps ``[B, C, H, W]``;
``compute()`` returns ``{measure: value}`` in natural units, shares as fractions in [0, 1].

A prediction that is not finite where the target is known is counted: it is no class, passes no threshold
(as a probability of 0 does not) and lies within no bound, and errors that are averaged show it as NaN or
infinity.
"""

from plait.metrics.boundary import BoundaryF
from plait.metrics.depth import AbsoluteErrors, DepthErrors
from plait.metrics.edges import PixelF
from plait.metrics.folders import score_folders
from plait.metrics.normals import NormalsErrors
from plait.metrics.protocols import PROTOCOLS
from plait.metrics.relative_gain import RelativeGain, relative_gain
from plait.metrics.saliency import Saliency, SaliencyPooled, SaliencySurvey
from plait.metrics.segmentation import MeanIoU

__all__ = [
    "PROTOCOLS",
    "AbsoluteErrors",
    "BoundaryF",
    "DepthErrors",
    "MeanIoU",
    "NormalsErrors",
    "PixelF",
    "RelativeGain",
    "Saliency",
    "SaliencyPooled",
    "SaliencySurvey",
    "relative_gain",
    "score_folders",
]
