"""Cityscapes: the owners' files, and two small packages that papers on multi-task learning use."""

from plait.data.cityscapes.dataset import Cityscapes

__all__ = ["Cityscapes"]
