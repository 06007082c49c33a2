"""Networks: an encoder from images to one feature pyramid a task, and a decoder from these to predictions."""

from plait.models.backbones import Backbone, create_backbone
from plait.models.network import MultiTaskNetwork, create_model
from plait.models.predictions import Predictions
from plait.models.weights import WeightsReport

__all__ = [
    "Backbone",
    "MultiTaskNetwork",
    "Predictions",
    "WeightsReport",
    "create_backbone",
    "create_model",
]
