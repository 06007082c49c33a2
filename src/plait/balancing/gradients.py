"""Per-task gradients: taking them, keeping them apart, and putting them together again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from plait.errors import ConfigurationError

PENALTY = -1
"""The place of what is added outside the balancer: a row with weight 1 that no rule sees."""
CHUNK = 2**17
"""Columns of a Jacobian that are widened to float64 at a time, so that they stay in the cache."""


class Rows:
    """The rows of a Jacobian, in blocks: the gradient of one task with respect to one tensor.

    A block that is not there is zero, and is neither stored nor multiplied.
    """

    def __init__(self) -> None:
        self.blocks: dict[Tensor, dict[int, Tensor]] = {}

    def add(self, tensor: Tensor, place: int, gradient: Tensor) -> None:
        """Adds ``gradient`` to the block of the task at ``place``."""
        row = self.blocks.setdefault(tensor, {})
        row[place] = row[place] + gradient if place in row else gradient

    def replace(
        self, order: Sequence[tuple[Tensor, int]], function: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    ) -> None:
        """Replaces the blocks by those that ``function`` makes of them, all at once.

        Args:
            order: ``(tensor, place)`` of every block, in the order in which they are handed over; a block
                that is not there is handed over as zeros.
            function: From blocks to as many of the same shapes.
        """
        given = [self.blocks.get(tensor, {}).get(place) for tensor, place in order]
        filled = [
            torch.zeros_like(tensor) if block is None else block
            for (tensor, _), block in zip(order, given, strict=True)
        ]
        self.blocks = {}
        for (tensor, place), block in zip(order, function(filled), strict=True):
            self.add(tensor, place, block)

    def gramian(self, tasks: int) -> Tensor:
        """Inner products of the first ``tasks`` rows ``[T, T]``, in float64 (see :func:`widest`)."""
        alike: dict[tuple[int, ...], list[list[Tensor]]] = {}
        for row in self.blocks.values():
            places = tuple(sorted(place for place in row if 0 <= place < tasks))
            if places:
                alike.setdefault(places, []).append([row[place].reshape(-1) for place in places])
        total = torch.zeros(tasks, tasks, dtype=torch.float64)
        for number, (places, blocks) in enumerate(alike.items()):
            products = _products(blocks)
            if number == 0:
                total = products.new_zeros(tasks, tasks)
            at = torch.tensor(places, device=total.device)
            total[at[:, None], at] += products
        return total

    def products(self, other: Rows, tasks: int) -> Tensor:
        """Inner products of these rows (first axis) with another Jacobian's, ``[T, T]``, in float64."""
        blocks = [
            (place, against, row[place], other.blocks[tensor][against])
            for tensor, row in self.blocks.items()
            for place in row
            for against in other.blocks.get(tensor, {})
            if 0 <= place < tasks and 0 <= against < tasks
        ]
        device = blocks[0][2].device if blocks else torch.device("cpu")
        total = torch.zeros(tasks, tasks, dtype=widest(device), device=device)
        for place, against, row, opposite in blocks:
            for part, facing in zip(
                torch.split(row.reshape(-1), CHUNK), torch.split(opposite.reshape(-1), CHUNK), strict=True
            ):
                total[place, against] += part.to(total.dtype) @ facing.to(total.dtype)
        return total

    def times(self, vector: Mapping[Tensor, Tensor], tasks: int) -> Tensor:
        """Inner product of each of the first ``tasks`` rows with a vector ``{tensor: part}``: ``[T]``."""
        single = Rows()
        for tensor, part in vector.items():
            single.add(tensor, 0, part)
        return self.products(single, tasks)[:, 0]

    def only(self, tensors: Iterable[Tensor]) -> Rows:
        """The blocks of some tensors; they are not copied."""
        chosen = Rows()
        chosen.blocks = {tensor: self.blocks[tensor] for tensor in tensors if tensor in self.blocks}
        return chosen

    def laid_out(self, tensors: Iterable[Tensor]) -> Rows:
        """The blocks of these tensors in their order, empty where there are none; they are not copied.

        What the columns of the Jacobian are about then depends neither on the step nor on the process.
        """
        ordered = Rows()
        ordered.blocks = {tensor: self.blocks.get(tensor, {}) for tensor in tensors}
        return ordered

    def jacobian(self, places: Sequence[int]) -> Tensor:
        """The rows at ``places``, written out: ``[len(places), D]``, in the order of ``blocks``."""
        sizes = [tensor.numel() for tensor in self.blocks]
        dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in self.blocks))
        device = next(iter(self.blocks)).device
        made = torch.zeros(len(places), sum(sizes), dtype=dtype, device=device)
        for row, columns in zip(self.blocks.values(), torch.split(made, sizes, dim=1), strict=True):
            for number, place in enumerate(places):
                if place in row:
                    columns[number].copy_(row[place].reshape(-1))
        return made

    def split(self, vector: Tensor) -> dict[Tensor, Tensor]:
        """A vector ``[D]`` in the order of :meth:`jacobian`, ``{tensor: part of its shape}``."""
        parts = torch.split(vector, [tensor.numel() for tensor in self.blocks])
        return {tensor: part.view(tensor.shape) for tensor, part in zip(self.blocks, parts, strict=True)}

    def combine(self, weights: Mapping[int, Tensor]) -> dict[Tensor, Tensor]:
        """The weighted sum of the rows, ``{tensor: gradient}``; a place without a weight is left out."""
        combined: dict[Tensor, Tensor] = {}
        for place, weight in weights.items():
            tensors = [tensor for tensor, row in self.blocks.items() if place in row]
            known = [tensor for tensor in tensors if tensor in combined]
            if known:
                sums = [combined[tensor] for tensor in known]
                rows = [self.blocks[tensor][place] for tensor in known]
                if weight.device.type == "cpu":
                    torch._foreach_add_(sums, rows, alpha=float(weight))
                else:  # without waiting for the weight
                    torch._foreach_add_(sums, torch._foreach_mul(rows, weight))
            fresh = [tensor for tensor in tensors if tensor not in combined]
            if fresh:
                rows = [widened(self.blocks[tensor][place]) for tensor in fresh]
                combined |= zip(fresh, torch._foreach_mul(rows, weight), strict=True)
        return combined


class Cut:
    """Features handed on as detached leaves; a tensor that appears several times becomes one leaf.

    Attributes:
        features: The tensors before the cut, each once.
        leaves: The same values behind it, in the same order; nothing flows back on its own.
        structure: The leaves in the shape in which the features came.
    """

    def __init__(self, features: Any) -> None:
        self.features: list[Tensor] = []
        self.leaves: list[Tensor] = []
        self._made: dict[int, Tensor] = {}
        self.structure = self._replace(features)

    @classmethod
    def inside(cls, features: Sequence[Tensor]) -> Cut:
        """No cut at all: the features are their own leaves, inside the graph."""
        cut = cls([])
        cut.features = cut.leaves = list(features)
        return cut

    def _replace(self, features: Any) -> Any:
        match features:
            case Tensor():
                if id(features) not in self._made:
                    leaf = features.detach().requires_grad_()
                    self._made[id(features)] = leaf
                    self.features.append(features)
                    self.leaves.append(leaf)
                return self._made[id(features)]
            case Mapping():
                return {name: self._replace(part) for name, part in features.items()}
            case list() | tuple():
                return [self._replace(part) for part in features]
            case _:
                raise TypeError(
                    f"features are tensors, or lists or dictionaries of them; got {type(features).__name__}"
                )

    def back(
        self, gradients: Mapping[Tensor, Tensor], parameters: Sequence[Tensor], *, keep: bool
    ) -> list[Tensor | None]:
        """Carries gradients at the leaves, ``{leaf: gradient}``, through the features to ``parameters``."""
        pairs = [
            (feature, gradients[leaf].to(feature.dtype))
            for feature, leaf in zip(self.features, self.leaves, strict=True)
            if leaf in gradients and feature.requires_grad
        ]
        if not pairs:
            return [None] * len(parameters)
        return gradients_of([feature for feature, _ in pairs], parameters, [g for _, g in pairs], keep=keep)


def gradients_of(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    at: Sequence[Tensor | None] | None = None,
    *,
    keep: bool,
) -> list[Tensor | None]:
    """``torch.autograd.grad``, with None for inputs that the outputs do not depend on.

    Args:
        outputs: What is differentiated.
        inputs: By what.
        at: Gradient of each output; None for scalars.
        keep: Whether the graph is needed again.
    """
    if not inputs:
        return []
    return list(torch.autograd.grad(outputs, inputs, at, retain_graph=keep, allow_unused=True))


def accumulate(parameter: Tensor, gradient: Tensor) -> None:
    """Adds to ``parameter.grad``; ``gradient`` must belong to nobody else.

    ``.grad`` lies in memory as the parameter does: autograd's own accumulation promises it, and torch's fused
    optimizers on the processor rely on it without a check.
    """
    if parameter.grad is not None:
        parameter.grad.add_(gradient)
    elif gradient.stride() == parameter.stride() and gradient.dtype == parameter.dtype:
        parameter.grad = gradient
    else:
        parameter.grad = torch.empty_like(parameter).copy_(gradient)


def reached(outputs: Iterable[Tensor]) -> list[Tensor]:
    """The leaves that require a gradient and from which ``outputs`` were computed, in the graph's order."""
    found: dict[Tensor, None] = {
        output: None for output in outputs if output.requires_grad and output.is_leaf
    }
    for node in _nodes(outputs):
        if type(node).__name__ == "AccumulateGrad":
            found[node.variable] = None  # type: ignore[attr-defined]
    return list(found)


def entangled(outputs: Sequence[Tensor]) -> list[bool]:
    """Whether each output shares a part of its graph, leaves apart, with an output that comes after it."""
    later: set[torch.autograd.graph.Node] = set()
    found = []
    for output in reversed(outputs):
        nodes = {node for node in _nodes([output]) if type(node).__name__ != "AccumulateGrad"}
        found.append(not nodes.isdisjoint(later))
        later |= nodes
    return found[::-1]


def feeding(features: Sequence[Tensor]) -> bool:
    """Whether one of the features was computed from another: then their gradients are not partial ones."""
    starts = {feature.grad_fn for feature in features}
    for feature in features:
        nodes = _nodes([feature])
        if any(node in starts and node is not feature.grad_fn for node in nodes):
            return True
    return False


def last_weight(feature: Tensor, among: Collection[Tensor] | None = None) -> Tensor | None:
    """The weight of the last layer before a feature, in the graph that computed it; None if there is none.

    Norms and biases are no layer: a weight has two axes or more. Of several that are equally near (those of a
    residual sum), it is the one that was computed with last.

    Args:
        feature: A tensor inside a graph.
        among: Only these count; None for all.

    Raises:
        ConfigurationError: If the graph is compiled.
    """
    seen: set[torch.autograd.graph.Node] = set()
    front = {} if feature.grad_fn is None else {feature.grad_fn: 0}
    while front:
        found: dict[Tensor, int] = {}
        further: dict[torch.autograd.graph.Node, int] = {}
        for node, used in front.items():
            if type(node).__name__.startswith("CompiledFunction"):
                raise ConfigurationError(
                    "a compiled network does not say which layer is its last: pass compared=[its weights]"
                )
            variable = node.variable if type(node).__name__ == "AccumulateGrad" else None  # type: ignore[attr-defined]
            if variable is not None and variable.ndim >= 2 and (among is None or variable in among):
                found[variable] = used
            for before, _ in node.next_functions:
                if before is not None:
                    further[before] = node._sequence_nr()
        if found:
            return max(found, key=lambda weight: found[weight])
        seen.update(front)
        front = {node: used for node, used in further.items() if node not in seen}
    return None


def sharded(parameters: Iterable[Tensor], outputs: Iterable[Tensor]) -> bool:
    """Whether FSDP shards a parameter, or acts in the graph of an output."""
    if any(isinstance(parameter, DTensor) or hasattr(parameter, "_sharded_size") for parameter in parameters):
        return True
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    # What FSDP gathers for a forward pass has no storage after it, and its modules act in the graph.
    gathered = any(p.numel() > 0 and p.untyped_storage().size() == 0 for p in reached(outputs))
    return gathered or any("PostBackward" in type(node).__name__ for node in _nodes(outputs))


def widest(device: torch.device) -> torch.dtype:
    """float64, but float32 on a device that has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def _products(blocks: Sequence[Sequence[Tensor]]) -> Tensor:
    """Inner products ``[P, P]`` of P rows, given in blocks of P flat parts each."""
    device = blocks[0][0].device
    width = min(CHUNK if device.type == "cpu" else 8 * CHUNK, sum(block[0].numel() for block in blocks))
    columns = torch.empty(len(blocks[0]), width, dtype=widest(device), device=device)
    upper = torch.zeros(len(columns), len(columns), dtype=columns.dtype, device=device)
    filled = 0
    for block in blocks:
        begun, size = 0, block[0].numel()
        while begun < size:
            count = min(size - begun, width - filled)
            parts = [row[begun : begun + count] for row in block]
            torch._foreach_copy_(columns[:, filled : filled + count].unbind(), parts)
            begun, filled = begun + count, filled + count
            if filled == width:
                _add_products(upper, columns)
                filled = 0
    _add_products(upper, columns[:, :filled])
    return upper.triu() + upper.triu(1).T


def _add_products(upper: Tensor, columns: Tensor) -> None:
    # Row by row is half the work of columns @ columns.T, and that shape is no library's strength.
    for place, row in enumerate(columns):
        upper[place, place:].addmv_(columns[place:], row)


def _nodes(outputs: Iterable[Tensor]) -> list[torch.autograd.graph.Node]:
    seen: dict[torch.autograd.graph.Node, None] = {}
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen[node] = None
            waiting.extend(before for before, _ in node.next_functions if before is not None)
    return list(seen)


def widened(tensor: Tensor) -> Tensor:
    """A tensor in float32, if it is in half precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
