"""By whose rules predictions are scored: one choice for all tasks, and never two in one comparison.

What a protocol chooses for a kind of task stands with that kind (``Task.scoring``). A kind that a protocol's
code does not score keeps its plain measures, and they say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plait.errors import ConfigurationError
from plait.metrics.relative_gain import Variant
from plait.registry import nearest


@dataclass(frozen=True)
class Protocol:
    """A way of scoring every kind of task.

    Attributes:
        name: What a recipe calls it.
        whose: Whose numbers it is for, for a person.
        variant: How its relative gain is formed; see :func:`plait.metrics.relative_gain`.
    """

    name: str
    whose: str
    variant: Variant = "survey"


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("plain", "plait's own: nothing is quantised, and only what is known counts"),
        Protocol("survey", "Vandenhende et al., TPAMI 2021: evaluated from 8-bit files"),
        Protocol("invpt", "InvPT, TaskPrompter and what follows ATRC: evaluated by meters"),
        Protocol("mtan", "MTAN, as LibMTL evaluates it", variant="libmtl"),
    )
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ConfigurationError: If there is none; names the nearest.
    """
    if name not in PROTOCOLS:
        raise ConfigurationError(
            f"unknown protocol {name!r}{nearest(str(name), PROTOCOLS)}; known are {', '.join(PROTOCOLS)}"
        )
    return PROTOCOLS[name]
