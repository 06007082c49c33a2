"""A training step that is made again and again, as it is in the middle of a run, to measure what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from plait.data.device import DrawnBatch
from plait.data.sample import Batch
from plait.study.cost import Step, StepCost, held_by
from plait.training.session import Session


@dataclass(frozen=True)
class Rehearsal:
    """A session that makes the step in the middle of its training, on the same images each time.

    Attributes:
        session: What makes it; its weights change.
        batches: For each batch that a step sees, its parts, as a loader gives them.
        samples: Of the training split.
    """

    session: Session
    batches: Sequence[Sequence[Batch | DrawnBatch]]
    samples: int

    def step(self, *, anew: bool = True) -> None:
        """Makes the step and frees its gradients.

        Args:
            anew: Whether a balancer that uses weights for several steps computes them.
        """
        session = self.session
        session.model.train()
        session.step = session.recipe.training.steps // 2
        session.balancer.age = session.balancer.every if anew else 1
        micro, *extra = ([session.place(batch) for batch in parts] for parts in self.batches)
        session.begin_step()
        session.update(micro, extra)
        session.end_step(self.samples)
        session.optimizer.zero_grad(set_to_none=True)

    def kinds(self) -> dict[str, Step]:
        """The kinds of steps: ``anew``, and ``again`` where weights are used for several steps."""
        kinds = {"anew": Step(self.step, self.held)}
        if self.session.balancer.every > 1:
            kinds["again"] = Step(partial(self.step, anew=False), self.held)
        return kinds

    def mean(self, costs: Mapping[str, StepCost]) -> StepCost:
        """The mean over the steps that weights are used for, of what each kind of step costs."""
        anew, every = costs["anew"], self.session.balancer.every
        if every == 1:
            return anew
        again = costs["again"]
        energy = None
        if anew.step_energy is not None and again.step_energy is not None:
            energy = (anew.step_energy + (every - 1) * again.step_energy) / every
        return StepCost(
            (anew.step_seconds + (every - 1) * again.step_seconds) / every,
            max(anew.step_memory, again.step_memory),
            energy,
        )

    def held(self) -> list[Tensor]:
        """The tensors that are there before and after a step, its images aside."""
        session = self.session
        states = [value for state in session.optimizer.state.values() for value in state.values()]
        averaged = [] if session.average is None else list(session.average.values.values())
        return [
            *held_by(session.model),
            *held_by(session.balancer),
            *(value for value in states if isinstance(value, Tensor)),
            *averaged,
        ]
