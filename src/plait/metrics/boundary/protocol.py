"""How a probability map becomes binary maps, and counts become scores: the protocols of the literature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plait.errors import ConfigurationError
from plait.metrics.boundary.suppression import suppress

ProtocolName = Literal["plain", "survey", "seism", "bsds"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way of evaluating edges.

    Attributes:
        thresholds: Ascending, in [0, 1].
        above: A pixel passes a threshold only above it; otherwise from it on.
        eight_bit: Probabilities are truncated to 8 bits first, as by writing them to a PNG.
        nms: Non-maximum suppression, in single precision.
        thin_prediction: The binary maps of the prediction are thinned.
        thin_target: The target is thinned.
        interpolate: ODS is also looked for between neighbouring thresholds, and a precision of 0 / 0 is 0
            instead of 1 (pdollar's scores instead of seism's).
        outline: The target is the outline of its mask instead of the mask.
    """

    thresholds: tuple[float, ...] = tuple(k / 100 for k in range(1, 100))
    above: bool = False
    eight_bit: bool = False
    nms: bool = False
    thin_prediction: bool = True
    thin_target: bool = True
    interpolate: bool = False
    outline: bool = False


PROTOCOLS: dict[str, Protocol] = {
    "plain": Protocol(),
    "survey": Protocol(eight_bit=True),
    "seism": Protocol(thresholds=(0.001, *Protocol.thresholds, 0.999), above=True, eight_bit=True, nms=True),
    "bsds": Protocol(thin_target=False, interpolate=True),
}


def resolve(
    protocol: ProtocolName | Protocol,
    *,
    outline: bool = False,
    nms: bool | None = None,
    thresholds: Sequence[float] | None = None,
) -> Protocol:
    """The protocol of that name, with what was asked for instead of its own.

    Raises:
        ConfigurationError: If there is no such protocol, or thresholds are not ascending in [0, 1].
    """
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise ConfigurationError(
                f"the boundary protocol is one of {', '.join(PROTOCOLS)}; got {protocol!r}"
            )
        protocol = PROTOCOLS[protocol]
    asked = replace(protocol, outline=outline or protocol.outline, nms=protocol.nms if nms is None else nms)
    if thresholds is None:
        return asked
    chosen = np.asarray(thresholds, dtype=np.float64)
    if chosen.ndim != 1 or not len(chosen) or not (np.diff(chosen) > 0).all() or not in_unit(chosen):
        raise ConfigurationError(
            f"thresholds must be one or more numbers in [0, 1], each larger than the last; got {thresholds}"
        )
    return replace(asked, thresholds=tuple(chosen.tolist()))


def in_unit(values: NDArray[np.float64]) -> bool:
    """Whether all values are in [0, 1]."""
    return bool(((values >= 0) & (values <= 1)).all())


def thresholds_passed(prediction: NDArray[np.generic], protocol: Protocol) -> NDArray[np.int64]:
    """How many of the protocol's thresholds each pixel passes: ``[H, W]``.

    A floating-point prediction is compared in its own precision, as ``PixelF`` does; 8-bit values exactly as
    fractions of 255; what non-maximum suppression leaves in single precision, with thresholds in double.
    A value that is not finite passes none, nor does zero.
    """
    thresholds = np.array(protocol.thresholds)
    if not protocol.above:
        thresholds = np.maximum(thresholds, np.finfo(np.float64).eps)
    side: Literal["left", "right"] = "left" if protocol.above else "right"
    if prediction.dtype != np.uint8:
        prediction = np.where(np.isfinite(prediction), prediction, 0).astype(prediction.dtype)
        if protocol.eight_bit:
            prediction = (prediction.clip(0, 1) * 255).astype(np.uint8)
    if protocol.nms:
        strength = prediction.astype(np.float32)
        if prediction.dtype == np.uint8:
            strength /= np.float32(255)
        return np.searchsorted(thresholds, suppress(strength).astype(np.float64), side)
    if prediction.dtype == np.uint8:
        # Division rounds k / 255 and the thresholds alike, so a tie of fractions is a tie of floats.
        passed: NDArray[np.int64] = np.searchsorted(thresholds, np.arange(256) / 255, side)[prediction]
        return passed
    return np.searchsorted(thresholds.astype(prediction.dtype), prediction, side)
