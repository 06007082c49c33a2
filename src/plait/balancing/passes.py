"""One graph of one micro-batch: whose losses are differentiated, by what, and where the gradients go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from plait.balancing.gradients import PENALTY, Cut, Rows, accumulate, entangled, gradients_of, reached


class Pass:
    """One graph: its losses and what they are differentiated by."""

    def __init__(
        self,
        terms: Sequence[tuple[int, Tensor]],
        scope: Mapping[nn.Parameter, tuple[int, ...]],
        reach: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter] | None,
        scale: Tensor | float | None,
    ) -> None:
        self.terms = terms
        self.scope = scope
        self.reach = reach
        self.others = others
        self.scale = scale
        self.factor: Tensor | float = 1.0 if scale is None else scale

    def backward(self, weights: Tensor) -> None:
        """Adds the gradient of the weighted sum to every parameter."""
        if not self.terms:
            return
        losses = [loss for _, loss in self.terms]
        at = self._seeds(weights)
        if self.scale is None:
            torch.autograd.backward(losses, at)
            return
        inputs = self._everything()
        self._add(inputs, gradients_of(losses, inputs, at, keep=False))

    def backward_apart(self, weights: Tensor, heads: Tensor) -> None:
        """Adds the gradient of the weighted sum: by ``weights`` within the scope, by ``heads`` elsewhere."""
        if not self.terms:
            return
        losses = [loss for _, loss in self.terms]
        inside = list(self.scope)
        outside = [tensor for tensor in self._everything() if tensor not in self.scope]
        self._add(outside, gradients_of(losses, outside, self._seeds(heads), keep=bool(inside)))
        self._add(inside, gradients_of(losses, inside, self._seeds(weights), keep=False))

    def _seeds(self, weights: Tensor) -> list[Tensor]:
        return [self._seed(loss, weights[place] if place != PENALTY else 1.0) for place, loss in self.terms]

    def backward_through(self, cut: Cut, weights: Tensor, heads: Tensor | None, *, scoped: bool) -> None:
        """Adds the gradient of the weighted sum through a cut; heads get it as well, or that by ``heads``.

        With ``scoped``, so does what lies behind the cut and is not shared.
        """
        if heads is not None:
            before = Rows()
            rows = self.rows_at(cut, before)
            by_heads = self._by_place(heads)
            for tensor, gradient in before.combine(by_heads).items():
                accumulate(tensor, gradient)
            at = rows.combine(self._by_place(weights))
            plain = rows.combine(by_heads) if scoped else at
        else:
            outside = self._before(cut)
            inputs = [*cut.leaves, *outside]
            losses = [loss for _, loss in self.terms]
            found = gradients_of(losses, inputs, self._seeds(weights), keep=False) if losses else []
            gradients = found or [None] * len(inputs)
            count = len(cut.leaves)
            at = {leaf: g for leaf, g in zip(cut.leaves, gradients[:count], strict=True) if g is not None}
            self._add(outside, gradients[count:])
            plain = at
        behind = self._behind(cut)
        inside = [p for p in behind if p in self.scope] if plain is not at else behind
        rest = [p for p in behind if p not in self.scope] if plain is not at else []
        self._add(inside, cut.back(at, inside, keep=bool(rest)))
        self._add(rest, cut.back(plain, rest, keep=False) if rest else [])

    def _by_place(self, weights: Tensor) -> dict[int, Tensor]:
        return {
            place: weights[place] if place != PENALTY else weights.new_ones(()) for place, _ in self.terms
        }

    def _before(self, cut: Cut) -> list[Tensor]:
        """The parameters on this side of a cut."""
        away = {*self._behind(cut), *cut.leaves}
        return [tensor for tensor in self._everything() if tensor not in away]

    def rows_of_everything(self, rows: Rows) -> None:
        """Adds each task's gradient of every parameter to ``rows``."""
        inputs = self._everything()
        for place, loss, keep in self._each():
            self._keep(rows, place, inputs, gradients_of([loss], inputs, [self._seed(loss)], keep=keep))

    def rows_of_parameters(self, shared: Rows, heads: Rows | None, cut: Cut | None) -> None:
        """Adds each task's gradient to ``shared`` within the scope, and to ``heads`` or ``.grad`` outside."""
        if cut is not None:
            rows = self.rows_at(cut, heads)
            self.rows_behind(cut, rows, shared, heads, scoped=True)
            return
        outside = [p for p in self._everything() if p not in self.scope]
        for place, loss, keep in self._each():
            inside = used(self.scope, place)
            inputs: list[Tensor] = [*inside, *outside]
            gradients = gradients_of([loss], inputs, [self._seed(loss)], keep=keep)
            self._keep(shared, place, inside, gradients[: len(inside)])
            self._outside(heads, place, outside, gradients[len(inside) :])

    def rows_over(self, tensors: Mapping[nn.Parameter, tuple[int, ...]], cut: Cut | None, rows: Rows) -> None:
        """Adds each task's gradient of some tensors, ``{tensor: places of its users}``, and no other."""
        if cut is not None:
            leaves = Rows()
            for place, loss, keep in self._each():
                gradients = gradients_of([loss], cut.leaves, [self._seed(loss)], keep=keep)
                for leaf, gradient in zip(cut.leaves, gradients, strict=True):
                    if gradient is not None:
                        leaves.add(leaf, place, gradient)
            self.carried(cut, leaves, tensors, rows, keep=False)
            return
        for place, loss, keep in self._each():
            inputs = used(tensors, place)
            self._keep(rows, place, inputs, gradients_of([loss], inputs, [self._seed(loss)], keep=keep))

    def rows_at(self, cut: Cut, heads: Rows | None) -> Rows:
        """Each task's (scaled) gradient at the leaves; those of the heads on the way, each head once."""
        rows = Rows()
        outside = self._before(cut)
        # A head's graph is its own and is freed at once; a decoder in which tasks mix keeps it for the next.
        needed = entangled([loss for _, loss in self.terms])
        for (place, loss), keep in zip(self.terms, needed, strict=True):
            inputs = [*cut.leaves, *outside]
            gradients = gradients_of([loss], inputs, [self._seed(loss)], keep=keep)
            count = len(cut.leaves)
            for leaf, gradient in zip(cut.leaves, gradients[:count], strict=True):
                if gradient is not None:
                    rows.add(leaf, place, gradient)
            self._outside(heads, place, outside, gradients[count:])
        return rows

    def carried(
        self,
        cut: Cut,
        rows: Rows,
        tensors: Mapping[nn.Parameter, tuple[int, ...]],
        compared: Rows,
        *,
        keep: bool,
    ) -> None:
        """Carries each task's row to some tensors only; ``keep`` says whether the rest's turn comes yet."""
        for number, (place, _) in enumerate(self.terms, start=1):
            inputs = used(tensors, place)
            at = {leaf: row[place] for leaf, row in rows.blocks.items() if place in row}
            gradients = cut.back(at, inputs, keep=keep or number < len(self.terms))
            self._keep(compared, place, inputs, gradients)

    def rows_behind(
        self, cut: Cut, rows: Rows, shared: Rows, heads: Rows | None = None, *, scoped: bool = False
    ) -> None:
        """Carries each task's row through the encoder; ``scoped`` treats what is not shared like heads."""
        behind = self._behind(cut)
        outside = [p for p in behind if p not in self.scope] if scoped else []
        places = [place for place, _ in self.terms]
        for number, place in enumerate(places, start=1):
            inside = used(self.scope, place) if scoped else behind
            at = {leaf: row[place] for leaf, row in rows.blocks.items() if place in row}
            gradients = cut.back(at, [*inside, *outside], keep=number < len(places))
            self._keep(shared, place, inside, gradients[: len(inside)])
            self._outside(heads, place, outside, gradients[len(inside) :])

    def backward_from(self, cut: Cut, at: Mapping[Tensor, Tensor]) -> None:
        """One backward through the encoder, into ``.grad``."""
        behind = self._behind(cut)
        self._add(behind, cut.back(at, behind, keep=False))

    def _each(self) -> Iterator[tuple[int, Tensor, bool]]:
        """Places and losses, and whether the graph is needed again after them."""
        for number, (place, loss) in enumerate(self.terms, start=1):
            yield place, loss, number < len(self.terms)

    def _seed(self, loss: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        return torch.ones_like(loss) * weight * self.factor

    def _everything(self) -> list[Tensor]:
        """All parameters that this graph may reach."""
        if self.others is None:
            found = reached([loss for _, loss in self.terms])
            return list(dict.fromkeys([*self.reach, *found]))
        return list(dict.fromkeys([*self.reach, *(p for p in self.others if p.requires_grad)]))

    def _behind(self, cut: Cut) -> list[Tensor]:
        """The parameters from which the features were computed."""
        return list(self.reach) if self.reach and self.others is not None else reached(cut.features)

    def _unscaled(self, gradient: Tensor) -> Tensor:
        return gradient if self.scale is None else gradient / self.factor

    def _keep(
        self, rows: Rows, place: int, inputs: Sequence[Tensor], gradients: Sequence[Tensor | None]
    ) -> None:
        for tensor, gradient in zip(inputs, gradients, strict=True):
            if gradient is not None:
                rows.add(tensor, place, self._unscaled(gradient))

    def _add(self, inputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        for tensor, gradient in zip(inputs, gradients, strict=True):
            if gradient is not None:
                # A copy: autograd may hand out one tensor as the gradient of two parameters.
                accumulate(tensor, gradient.clone() if self.scale is None else self._unscaled(gradient))

    def _outside(
        self,
        heads: Rows | None,
        place: int,
        inputs: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
    ) -> None:
        if heads is None:
            self._add(inputs, gradients)
        else:
            self._keep(heads, place, inputs, gradients)


def used(tensors: Mapping[nn.Parameter, tuple[int, ...]], place: int) -> list[nn.Parameter]:
    """Those of the tensors, ``{tensor: places of its users}``, that a task uses; the penalty may use all."""
    return [tensor for tensor, users in tensors.items() if place == PENALTY or place in users]
