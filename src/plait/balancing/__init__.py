"""How the losses of several tasks are combined into one update.

Works with any ``nn.Module`` and any loop: see :class:`Balancer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from plait import registry
from plait.balancing.base import Balancer, BalancerReport, Common, Needs, Observation
from plait.balancing.draws import Draws
from plait.balancing.fixed import Equal, Fixed
from plait.balancing.mgda import MGDA, mgda_weights
from plait.balancing.probe import Probe, untouched

if TYPE_CHECKING:
    from plait.tasks.base import Task

__all__ = [
    "MGDA",
    "Balancer",
    "BalancerReport",
    "Common",
    "Draws",
    "Equal",
    "Fixed",
    "Needs",
    "Observation",
    "Probe",
    "create",
    "mgda_weights",
    "untouched",
]


def create(name: str, *, tasks: Sequence[str | Task] | None = None, **options: Any) -> Balancer:
    """A balancer by name.

    Args:
        name: A name of ``plait.list_balancers()``, or your own as ``package.module:Class``.
        tasks: The tasks, or their names, in declared order; None takes the order of each step's losses.
        options: The balancer's own keyword arguments, for instance ``scope="features"``.

    Raises:
        ConfigurationError: If the name or an option is unknown; names the nearest one.
    """
    balancer: Balancer = registry.build("balancer", name, options, tasks=tasks)
    return balancer
