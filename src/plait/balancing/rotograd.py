"""RotoGrad: features are rotated for each task so that gradients agree, and gradients get a common length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Unpack, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.errors import ConfigurationError
from plait.registry import nearest
from plait.training.distributed import reduce_sums

Scale = Literal["rotograd", "none"]


def rotograd_weights(norms: Tensor, initial: Tensor) -> Tensor:
    """Weights that give all gradients a common length: ``w_i = C / n_i``.

    ``C = sum_k a_k n_k``, where a_k is the task's share of the progress ratios ``n_k(t) / n_k(t_0)``: the
    tasks whose gradients have shrunk least decide the length.

    >>> rotograd_weights(torch.tensor([2.0, 1.0]), torch.tensor([2.0, 4.0]))
    tensor([0.9000, 1.8000])

    Args:
        norms: Lengths n_i of the gradients at the features ``[T]``. A length of zero is left out: weight 0.
        initial: The same at the start of training, ``[T]``, positive where ``norms`` is.

    Returns:
        Weights ``[T]``; only ratios of lengths matter. NaN if a length is not finite.

    Source:
        Javaloy and Valera, RotoGrad: Gradient Homogenization in Multitask Learning, ICLR 2022, section 4.1.
    """
    heard = norms != 0
    ratios = torch.where(heard, norms / initial.where(heard, torch.ones_like(initial)), 0.0)
    common = ratios @ norms / ratios.sum()
    return torch.where(heard, common / norms, 0.0)


def rotation_slope(gradient: Tensor, target: Tensor) -> Tensor:
    """How a small rotation of the target changes its squared distance to a gradient, to first order.

    Of ``E(A) = sum_n |exp(A) v_n - g_n|^2`` the gradient at ``A = 0`` among skew matrices:
    ``N^T - N`` with ``N = sum_n g_n v_n^T``. With a rotation R in front of both it is the same, so this is
    the slope of the paper's ``|R v - sg(R g)|^2`` along ``R exp(A)``. It is zero if ``g = v``.

    >>> rotation_slope(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([[ 0.,  1.],
            [-1.,  0.]])

    Args:
        gradient: g, ``[B, C, ...]``: n counts images and places in them.
        target: v, of the same shape.

    Returns:
        A skew matrix ``[C, C]``.

    Source:
        Javaloy and Valera, ICLR 2022, section 4.2.
    """
    products = gradient.movedim(1, 0).flatten(1) @ target.movedim(1, 0).flatten(1).T
    return products.T - products


class Rotation(nn.Module):
    """A rotation of the first channels of a feature, the same at every place; the identity at first.

    A buffer and not a parameter: only :meth:`turn` moves it, and no optimizer, decay or clipping does.

    Args:
        channels: Of the feature.
        rotated: How many of them are rotated.
    """

    matrix: Tensor

    def __init__(self, channels: int, rotated: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("matrix", torch.eye(rotated))

    def forward(self, feature: Tensor) -> Tensor:
        """Maps ``[B, C, ...]`` to the same shape.

        Raises:
            ConfigurationError: If it has other channels.
        """
        if feature.shape[1] != self.channels:
            raise ConfigurationError(
                f"a rotation was made for {self.channels} channels, got features {list(feature.shape)}: "
                f"expected [B, {self.channels}, ...]"
            )
        count = len(self.matrix)
        kernel = self.matrix.to(feature.dtype)[:, :, None, None]
        turned = feature[:, :count]
        turned = F.conv2d(turned.reshape(*turned.shape[:2], -1, 1), kernel).reshape(turned.shape)
        return turned if count == self.channels else torch.cat([turned, feature[:, count:]], 1)

    @torch.no_grad()
    def turn(self, step: Tensor) -> None:
        """``R <- R exp(A)`` for a skew matrix A ``[C, C]``, orthogonal again after rounding."""
        turned = self.matrix @ torch.linalg.matrix_exp(step)
        # Newton's step to the nearest orthogonal matrix: rounding is squared, so nothing adds up. In a new
        # tensor, because graphs may hold the old one.
        self.matrix = 1.5 * turned - 0.5 * turned @ (turned.T @ turned)


class Rotations(nn.Module):
    """A rotation of every level of every task's features.

    Args:
        channels: Of each level, by task.
        rotated: Only so many first channels of a level are rotated; None for all.
    """

    def __init__(self, channels: Mapping[str, Sequence[int]], *, rotated: int | None = None) -> None:
        super().__init__()
        self.by_task = nn.ModuleDict(
            {
                task: nn.ModuleList(
                    Rotation(count, count if rotated is None else min(rotated, count)) for count in levels
                )
                for task, levels in channels.items()
            }
        )

    def of(self, task: str) -> list[Rotation]:
        """The rotations of a task, one a level."""
        return list(cast("Sequence[Rotation]", self.by_task[task]))

    def forward(self, features: Mapping[str, Sequence[Tensor]]) -> dict[str, list[Tensor]]:
        """Maps each task's levels ``[B, C_s, ...]`` to rotated ones; tasks may be missing."""
        return {
            task: [rotation(level) for rotation, level in zip(self.of(task), levels, strict=True)]
            for task, levels in features.items()
        }


class SkewAdam(nn.Module):
    """Adam in the tangent space of one rotation, relative to where it is.

    Args:
        rotation: Whose steps these are.
        lr: Learning rate, in radians for an entry's first step.
        decay: Multiplies it after every step.
        betas: How much of the two running moments is kept in a step.
        eps: Added to the root of the second moment.

    Source:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, algorithm 1.
    """

    first: Tensor
    second: Tensor
    count: Tensor

    def __init__(
        self,
        rotation: Rotation,
        *,
        lr: float,
        decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        self.lr, self.decay, self.betas, self.eps = lr, decay, betas, eps
        self.register_buffer("first", torch.zeros_like(rotation.matrix))
        self.register_buffer("second", torch.zeros_like(rotation.matrix))
        self.register_buffer("count", torch.zeros_like(rotation.matrix[0, 0]))

    def step(self, slope: Tensor) -> Tensor:
        """The skew matrix ``[C, C]`` to go along, against a slope."""
        self.first.lerp_(slope, 1 - self.betas[0])
        self.second.lerp_(slope.square(), 1 - self.betas[1])
        lr = self.lr * self.decay**self.count
        self.count += 1
        # 1 - beta^count, without cancellation.
        seen = [-torch.expm1(self.count * math.log(beta)) for beta in self.betas]
        return -lr * (self.first / seen[0]) / ((self.second / seen[1]).sqrt() + self.eps)


class RotoGrad(Balancer):
    """Rotates features for each task so that gradients agree, and gives gradients a common length.

    Every task has an orthogonal matrix R_i on the channels of each level of its features z, the identity at
    first: its head sees ``R_i z``, and its gradient at z is ``g_i = R_i^T dL_i/d(R_i z)``. In each step

    - the encoder gets the sum of the g_i, all of the common length of :func:`rotograd_weights`
      (``scale="rotograd"``), or as they are (``"none"``, the official code's ``RotateOnly``);
    - each R_i makes a step of its own Adam that turns g_i towards v, the mean of all g_k of unit length: down
      ``|R_i v - sg(R_i g_i / |g_i|)|^2``, summed over images, places and levels (see :func:`rotation_slope`).

    The rotations are a part of the network, in training and in every prediction. A network of a recipe has
    them where encoder and decoder meet (``at_cut``), and its checkpoint holds them. In a loop of your own the
    balancer has them, if it is made with ``channels``:

    >>> balancer = RotoGrad(tasks=["a", "b"], channels=[8])
    >>> trunk, heads = nn.Linear(4, 8), {task: nn.Linear(8, 1) for task in "ab"}
    >>> with balancer.cut([trunk(torch.ones(2, 4))]) as features:
    ...     losses = {task: head(*features[task]).square().mean() for task, head in heads.items()}
    ...     report = balancer.backward(losses)
    >>> rotated = balancer.rotate([trunk(torch.ones(2, 4))])["a"][0]  # to predict with

    Equal gradients g of T tasks give T g. Nothing keeps the sum from conflicting with a task. Features of
    which each task has its own are not turned: there is nothing to agree with. A task that is absent, or
    whose gradient is exactly zero, keeps its rotation. With ``every``, rotations learn in the steps whose
    weights are computed. Micro-batches are refused, because rotations look at each feature of the batch.

    Args:
        scale: ``"rotograd"`` or ``"none"``.
        rotation_lr: Learning rate of the rotations: about how far, in radians, a step turns one channel
            towards another; all C channels may turn the same way, so up to C times as far. To be smaller
            than the network's.
        rotation_decay: Multiplies it after every step of a task's rotations.
        rotated_channels: Only so many first channels of each level are rotated; None for all. A rotation of c
            channels keeps three c x c matrices, and a step costs about ten of their products.
        burn_in: A task's initial length is that of its first gradient, and is taken anew after so many.
        channels: Channels of each level of the features, the same for all tasks or by task, if the balancer
            is to have the rotations itself; None where they are in the network.
        common: See :class:`~plait.balancing.Common`. Gradients are taken at features.

    Raises:
        ConfigurationError: For an option out of its range, or without tasks.

    Source:
        Javaloy and Valera, RotoGrad: Gradient Homogenization in Multitask Learning, ICLR 2022, algorithm 1.
        Ours differs in the rotations' step; see the page of the method.
    """

    needs = Needs(quantity="jacobian")
    natural = "sum"
    scopes = ("features",)
    default_scope = "features"
    initial: Tensor
    steps: Tensor

    def __init__(
        self,
        *,
        scale: Scale = "rotograd",
        rotation_lr: float = 1e-4,
        rotation_decay: float = 0.9999,
        rotated_channels: int | None = None,
        burn_in: int = 20,
        channels: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        if self.tasks is None:
            raise ConfigurationError("RotoGrad keeps rotations for each task: pass tasks=[...]")
        if scale not in ("rotograd", "none"):
            raise ConfigurationError(f"scale is rotograd or none, got {scale!r}")
        if not (rotation_lr >= 0 and 0 < rotation_decay <= 1):
            raise ConfigurationError(
                f"rotation_lr is not negative and rotation_decay in (0, 1], got {rotation_lr} and "
                f"{rotation_decay}"
            )
        if rotated_channels is not None and rotated_channels < 1:
            raise ConfigurationError(
                f"rotated_channels is 1 or more, or null for all, got {rotated_channels}"
            )
        if burn_in < 0:
            raise ConfigurationError(f"burn_in is zero or more steps, got {burn_in}")
        self.scale, self.burn_in = scale, burn_in
        self.rotation_lr, self.rotation_decay = rotation_lr, rotation_decay
        self.rotated_channels = rotated_channels
        self.declare_state("initial")
        self.declare_state("steps")
        self._held: tuple[Rotations, ...] = ()  # a tuple, because the network's rotations are no part of this
        self.has_own = channels is not None
        """Whether the rotations are a part of the balancer and not of a network."""
        if channels is not None:
            by_task = channels if isinstance(channels, Mapping) else dict.fromkeys(self.tasks, channels)
            self._check_names(by_task)
            self.rotations = Rotations(by_task, rotated=rotated_channels)
            self._hold(self.rotations)

    def at_cut(self, channels: Mapping[str, Sequence[int]]) -> Rotations:
        """The rotations of a network whose encoder has these channels of each level, by task.

        Raises:
            ConfigurationError: If the balancer has rotations itself.
        """
        self._refuse_own()
        return Rotations(channels, rotated=self.rotated_channels)

    def attach(self, model: nn.Module) -> None:
        """Takes the rotations of the network that will be trained.

        Raises:
            ConfigurationError: If the network was made without them, or its decoder mixes tasks; or if the
                balancer has rotations itself.
        """
        self._refuse_own()
        rotations = getattr(model, "at_cut", None)
        if not isinstance(rotations, Rotations):
            raise ConfigurationError(
                "RotoGrad rotates features between encoder and decoder, but the network was made without "
                "rotations: make it with create_model(..., at_cut=balancer.at_cut)"
            )
        self._check_names(rotations.by_task)
        decoder = getattr(model, "decoder", None)
        if getattr(decoder, "interacts", False):
            raise ConfigurationError(
                f"RotoGrad turns a task's features to turn its gradient, but in decoder "
                f"{type(decoder).__name__} each task's gradient depends on all tasks' features: use decoder "
                f"'independent', or another balancer"
            )
        self._hold(rotations)

    def rotate(self, features: Any) -> dict[str, Any]:
        """Each task's rotated features, to predict with.

        Args:
            features: A tensor ``[B, C, ...]`` or a list of levels, for all tasks or by task.

        Returns:
            ``{task: tensor or list}`` as they came.
        """
        levels = self._by_level(features)
        rotated = self._rotations()(levels)
        by_task = features if isinstance(features, Mapping) else dict.fromkeys(levels, features)
        return {t: made[0] if isinstance(by_task[t], Tensor) else made for t, made in rotated.items()}

    @contextmanager
    def cut(self, features: Any) -> Iterator[Any]:
        """As for every balancer; but if the balancer has the rotations, it yields what :meth:`rotate` gives.

        Args:
            features: A tensor or a list of levels, for all tasks or by task.

        Yields:
            The leaves as they are where the network rotates them, else ``{task: rotated leaves}``.
        """
        with super().cut(features) as leaves:
            yield self.rotate(leaves) if self.has_own else leaves

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        norms = seen.gramian.diagonal().sqrt()
        self._learn(seen, norms)
        if self.scale == "none":
            return torch.ones_like(norms)
        return rotograd_weights(norms, self._initial(seen, norms))

    def _initial(self, seen: Observation, norms: Tensor) -> Tensor:
        """The present tasks' lengths at the start ``[P]``."""
        at, heard = list(seen.places), norms > 0
        initial = self.state("initial", seen.total, like=norms)
        steps = self.state("steps", seen.total, like=norms)
        starts = heard & ((steps[at] == 0) | (steps[at] == self.burn_in))
        initial[at] = torch.where(starts, norms, initial[at])
        steps[at] += heard
        return initial[at]

    def _learn(self, seen: Observation, norms: Tensor) -> None:
        """A step of every rotation whose task has a gradient."""
        if self._cut is None:
            if seen.values is not None:
                raise ConfigurationError(
                    "RotoGrad needs to know which features are whose: run the heads in "
                    "'with balancer.cut(features) as leaves:' and leave features= out"
                )
            return  # the rule alone, on gradients of nothing that could be rotated
        assert self.tasks is not None
        heard = [row for row, length in enumerate(norms.tolist()) if length > 0]
        leaves, units = self._by_level(self._cut.structure), self._unit_gradients(seen, norms)
        turning: list[tuple[Rotation, SkewAdam]] = []
        slopes: list[Tensor] = []
        for row in heard:
            task = self.tasks[seen.places[row]]
            adams = cast("Sequence[SkewAdam]", self.moments[task])
            for rotation, adam, leaf in zip(self._rotations().of(task), adams, leaves[task], strict=True):
                turning.append((rotation, adam))
                if (unit := units.get(leaf)) is None:  # nobody looked at this level
                    slopes.append(torch.zeros_like(rotation.matrix))
                    continue
                # Its own part of the mean has no slope: left out, it leaves no rounding for Adam to follow.
                others = unit[[other for other in heard if other != row]].sum(0) / len(heard)
                slopes.append(rotation_slope(unit[row], others))
        for (rotation, adam), slope in zip(turning, reduce_sums(slopes), strict=True):
            rotation.turn(adam.step(slope))

    def _unit_gradients(self, seen: Observation, norms: Tensor) -> dict[Tensor, Tensor]:
        """Gradients of unit length at the rotated channels of each leaf, ``{leaf: [P, B, c, ...]}``."""
        if seen.jacobian is None:  # in this process
            return {}
        matrix = next(self._rotations().buffers())
        count = self.rotated_channels
        columns = torch.split(seen.jacobian, [leaf.numel() for leaf in seen.tensors], 1)
        lengths = norms.where(norms > 0, torch.ones_like(norms))
        return {
            leaf: (block.to(matrix.dtype) / lengths.to(matrix)[:, None]).view(-1, *leaf.shape)[:, :, :count]
            for leaf, block in zip(seen.tensors, columns, strict=True)
        }

    def _hold(self, rotations: Rotations) -> None:
        self._held = (rotations,)
        self.moments = nn.ModuleDict(
            {
                task: nn.ModuleList(
                    SkewAdam(rotation, lr=self.rotation_lr, decay=self.rotation_decay)
                    for rotation in rotations.of(task)
                )
                for task in rotations.by_task
            }
        )

    def _rotations(self) -> Rotations:
        if not self._held:
            raise ConfigurationError(
                "RotoGrad has no rotations: call attach(model) with a network made with "
                "at_cut=balancer.at_cut, or pass channels= for a loop of your own"
            )
        return self._held[0]

    def _by_level(self, features: Any) -> dict[str, list[Tensor]]:
        """Features as a list of levels a task."""
        by_task = features if isinstance(features, Mapping) else dict.fromkeys(self.tasks or (), features)
        levels = {t: [given] if isinstance(given, Tensor) else list(given) for t, given in by_task.items()}
        for task, own in levels.items():
            if task not in self._rotations().by_task:
                raise ConfigurationError(
                    f"RotoGrad knows no task {task!r}{nearest(task, self.tasks or ())}; "
                    f"its tasks are {', '.join(self.tasks or ())}"
                )
            if len(own) != len(self._rotations().of(task)):
                raise ConfigurationError(
                    f"RotoGrad was made for {len(self._rotations().of(task))} levels of {task!r}, got "
                    f"{len(own)}: pass channels= with one number for each"
                )
        return levels

    def _check_names(self, by_task: Any) -> None:
        if tuple(by_task) != self.tasks:
            raise ConfigurationError(
                f"the rotations are for {', '.join(by_task) or 'no tasks'}, the balancer for "
                f"{', '.join(self.tasks or ())}: make both for the same tasks in the same order"
            )

    def _refuse_own(self) -> None:
        if self.has_own:
            raise ConfigurationError(
                "RotoGrad was made with channels, so it has the rotations itself; a network has them where "
                "encoder and decoder meet: leave channels out"
            )
