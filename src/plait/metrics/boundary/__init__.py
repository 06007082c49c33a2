"""The boundary F of the literature: thinning, one-to-one matching, ODS, OIS and AP."""

from plait.metrics.boundary.boundary_f import BoundaryF, Curve, score_images
from plait.metrics.boundary.counting import match_counts
from plait.metrics.boundary.protocol import PROTOCOLS, Protocol

__all__ = ["PROTOCOLS", "BoundaryF", "Curve", "Protocol", "match_counts", "score_images"]
