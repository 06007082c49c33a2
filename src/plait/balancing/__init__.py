"""How the losses of several tasks are combined into one update.

Works with any ``nn.Module`` and any loop: see :class:`Balancer`. The mathematics of each rule is a function
here as well, of losses ``[T]``, a Gramian ``[T, T]`` or a Jacobian ``[T, D]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from plait import registry
from plait.balancing.aligned_mtl import AlignedMTL, aligned_mtl_weights
from plait.balancing.auto_lambda import AutoLambda, auto_lambda_gradient
from plait.balancing.base import Balancer, BalancerReport, Common, Needs, Observation
from plait.balancing.cagrad import CAGrad, cagrad_weights
from plait.balancing.config import ConFIG, config_weights
from plait.balancing.db_mtl import DBMTL, db_mtl_direction, db_mtl_weights
from plait.balancing.draws import Draws
from plait.balancing.dtp import DTP, dtp_weights
from plait.balancing.dualproj import DualProj, dualproj_weights
from plait.balancing.dwa import DWA, dwa_weights
from plait.balancing.excess_mtl import ExcessMTL, excess_mtl_weights
from plait.balancing.fairgrad import FairGrad, fairgrad_weights
from plait.balancing.famo import FAMO, famo_slope, famo_weights
from plait.balancing.fixed import Equal, Fixed
from plait.balancing.gls import GLS, gls_weights
from plait.balancing.graddrop import GradDrop, graddrop_direction
from plait.balancing.gradnorm import GradNorm, gradnorm_gradient
from plait.balancing.gradvac import GradVac, gradvac_weights
from plait.balancing.grid import Trial, grid_search, weight_grid
from plait.balancing.imtl import IMTLG, IMTLL, imtl_g_weights, imtl_l_gradient, imtl_l_weights
from plait.balancing.log_sum import LogSum, log_sum_weights
from plait.balancing.mgda import MGDA, mgda_weights
from plait.balancing.moco import MoCo, moco_step
from plait.balancing.modo import MoDo, modo_step
from plait.balancing.nash_mtl import NashMTL, nash_mtl_weights
from plait.balancing.pcgrad import PCGrad, pcgrad_weights
from plait.balancing.probe import Probe, untouched
from plait.balancing.rlw import RLW, rlw_weights
from plait.balancing.rotograd import RotoGrad
from plait.balancing.sdmgrad import SDMGrad, sdmgrad_step, sdmgrad_weights
from plait.balancing.stch import STCH, stch_weights
from plait.balancing.uncertainty import Uncertainty, uncertainty_slopes, uncertainty_weights
from plait.balancing.upgrad import UPGrad, upgrad_weights

if TYPE_CHECKING:
    from plait.tasks.base import Task

__all__ = [
    "DBMTL",
    "DTP",
    "DWA",
    "FAMO",
    "GLS",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "RLW",
    "STCH",
    "AlignedMTL",
    "AutoLambda",
    "Balancer",
    "BalancerReport",
    "CAGrad",
    "Common",
    "ConFIG",
    "Draws",
    "DualProj",
    "Equal",
    "ExcessMTL",
    "FairGrad",
    "Fixed",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "LogSum",
    "MoCo",
    "MoDo",
    "NashMTL",
    "Needs",
    "Observation",
    "PCGrad",
    "Probe",
    "RotoGrad",
    "SDMGrad",
    "Trial",
    "UPGrad",
    "Uncertainty",
    "aligned_mtl_weights",
    "auto_lambda_gradient",
    "cagrad_weights",
    "config_weights",
    "create",
    "db_mtl_direction",
    "db_mtl_weights",
    "dtp_weights",
    "dualproj_weights",
    "dwa_weights",
    "excess_mtl_weights",
    "fairgrad_weights",
    "famo_slope",
    "famo_weights",
    "gls_weights",
    "graddrop_direction",
    "gradnorm_gradient",
    "gradvac_weights",
    "grid_search",
    "imtl_g_weights",
    "imtl_l_gradient",
    "imtl_l_weights",
    "log_sum_weights",
    "mgda_weights",
    "moco_step",
    "modo_step",
    "nash_mtl_weights",
    "pcgrad_weights",
    "rlw_weights",
    "sdmgrad_step",
    "sdmgrad_weights",
    "stch_weights",
    "uncertainty_slopes",
    "uncertainty_weights",
    "untouched",
    "upgrad_weights",
    "weight_grid",
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
