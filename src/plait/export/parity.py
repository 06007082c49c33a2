"""Whether an exported model says what the network says, on real pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from plait.export.deployed import Deployed, Output
from plait.export.formats import Exported
from plait.inference.pictures import Pixels
from plait.inference.predictor import Predictor
from plait.tasks.base import unchanged

if TYPE_CHECKING:
    from rich.table import Table

TOLERANCE = 1e-3
"""The largest difference that is allowed, as a part of the largest value of a map."""

EAGER, PREDICTOR = "eager", "predictor"
"""What is compared with: the same steps in eager torch, and the pipeline that evaluation uses."""

TOLD = {EAGER: "eager torch", PREDICTOR: "the evaluation"}
CAPTION = "of class ids: the largest gap of two classes' probabilities where one was taken for the other"


@dataclass
class Comparison:
    """One output of an exported model beside a reference, over all pictures so far.

    Values may differ by :data:`TOLERANCE` of the largest value. Two decisions can turn such a difference
    into a large one, and are judged by what was decided on: class ids may differ where the probabilities of
    both classes differ by at most twice the tolerance, and a unit vector may differ by more the shorter the
    (averaged) vector was before it was given unit length.

    Attributes:
        output: What is compared.
        against: ``"eager"`` or ``"predictor"``.
        error: The largest absolute difference, in the output's unit; for class ids the largest difference of
            the probabilities of two classes that were taken for each other.
        judged: The same as far as it counts.
        largest: The largest absolute value of the reference.
        pixels: How many pixels were compared.
        differing: How many have another class.
    """

    output: Output
    against: str
    error: float = 0.0
    judged: float = 0.0
    largest: float = 0.0
    pixels: int = 0
    differing: int = 0

    def add(self, found: Tensor, expected: Tensor, undecided: Tensor) -> None:
        """Compares maps of some pictures.

        Args:
            found: The exported model's, ``[B, C, H, W]``.
            expected: The reference's, of the same shape.
            undecided: The reference's before anything was decided, ``[B, K, H, W]``.
        """
        self.pixels += expected[:, :1].numel()
        if self.output.ids:
            self.largest = 1.0
            other = (found != expected)[:, 0]
            self.differing += int(other.sum())
            if bool(other.any()):
                known = undecided.shape[1] - 1
                gaps = (
                    undecided.gather(1, expected.clamp(max=known))
                    - undecided.gather(1, found.clamp(max=known))
                )[:, 0][other]
                unknown = torch.maximum(found, expected)[:, 0][other] > known
                gap = float(gaps.abs().where(~unknown, torch.inf).max())
                self.error, self.judged = _largest(self.error, gap), _largest(self.judged, gap)
            return
        difference = (found.double() - expected.double()).abs()
        self.error = _largest(self.error, float(difference.max()))
        self.largest = _largest(self.largest, float(expected.abs().max()))
        if not self.output.probabilities and self.output.task.decide is not unchanged:
            difference = difference * undecided.double().norm(dim=1, keepdim=True).clamp(max=1)
        self.judged = _largest(self.judged, float(difference.max()))

    @property
    def allowed(self) -> float:
        """What ``judged`` may be at most."""
        return TOLERANCE * (2.0 if self.output.ids else self.largest)

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance; not where anything is not a number."""
        return self.judged <= self.allowed

    def told(self) -> str:
        """A disagreement in words."""
        name = TOLD[self.against]
        if self.output.ids:
            share = f"{100 * self.differing / self.pixels:.3g} %"
            return (
                f"{self.output.name} has another class than {name} in {share} of the pixels, with "
                f"probabilities up to {self.error:.2g} apart"
            )
        unit = f" {self.output.unit}" if self.output.unit else ""
        far, allowed = f"{self.error:.2g}{unit}", f"{self.allowed:.2g}{unit}"
        return f"{self.output.name} is up to {far} from {name}, allowed is {allowed}"

    def described(self) -> dict[str, Any]:
        """For a description."""
        described: dict[str, Any] = {
            "output": self.output.name,
            "against": self.against,
            "maximum_error": self.error if math.isfinite(self.error) else None,
            "unit": "probability" if self.output.ids else self.output.unit,
            "judged": self.judged if math.isfinite(self.judged) else None,
            "allowed": self.allowed,
            "pixels": self.pixels,
        }
        if self.output.ids:
            described["differing_pixels"] = self.differing
        return described


def compare(
    model: Exported,
    deployed: Deployed,
    predictor: Predictor | None,
    batches: Iterable[Pixels],
) -> list[Comparison]:
    """Compares an exported model with the network, on real pictures.

    Args:
        model: What was exported.
        deployed: What it was exported from.
        predictor: The pipeline that evaluation uses; None leaves it out.
        batches: Pictures uint8 ``[B, H, W, 3]`` that the model takes.

    Returns:
        A comparison an output and reference.
    """
    against = {EAGER: deployed.outputs}
    if predictor is not None:  # it gives decoded maps only
        against[PREDICTOR] = tuple(output for output in deployed.outputs if not output.probabilities)
    made = {
        (output.name, reference): Comparison(output, reference)
        for reference, outputs in against.items()
        for output in outputs
    }
    for images in batches:
        found = model(images)
        with torch.inference_mode():
            undecided = deployed.undecided(torch.from_numpy(images))
            references: dict[str, Mapping[str, Tensor]] = {EAGER: deployed.decided(undecided)}
        if predictor is not None:
            references[PREDICTOR] = _predicted(predictor, deployed.outputs, images)
        for (name, reference), comparison in made.items():
            output = comparison.output
            comparison.add(
                output.taken_apart(torch.from_numpy(found[name])),
                output.taken_apart(references[reference][name]),
                undecided[output.task.name],
            )
    return list(made.values())


def table(comparisons: Sequence[Comparison], *, title: str, judged: bool = True) -> Table:
    """A row an output for the terminal; with what is allowed, if it was ``judged``."""
    from rich.table import Table

    by_output: dict[str, dict[str, Comparison]] = {}
    for comparison in comparisons:
        by_output.setdefault(comparison.output.name, {})[comparison.against] = comparison
    against = [one for one in TOLD if any(one in pair for pair in by_output.values())]
    made = Table(title=title, caption=CAPTION if any(one.output.ids for one in comparisons) else None)
    made.add_column("output")
    for reference in against:
        made.add_column(f"beside {TOLD[reference]}", justify="right")
    if judged:
        made.add_column("allowed", justify="right")
    made.add_column("of another class", justify="right")
    for name, pair in by_output.items():
        output = pair[EAGER].output
        unit = f" {output.unit}" if output.unit else ""
        errors = [f"{_short(pair[one].error)}{unit}" if one in pair else "-" for one in against]
        share = max(one.differing / one.pixels for one in pair.values())
        made.add_row(
            name,
            *errors,
            *([f"{_short(pair[EAGER].allowed)}{unit}"] if judged else []),
            f"{share:.3%}".replace("%", " %") if output.ids else "",
        )
    return made


def _predicted(predictor: Predictor, outputs: Sequence[Output], images: Pixels) -> dict[str, Tensor]:
    """What the predictor says of pictures, laid out as a deployed network lays it out."""
    made = predictor.batch(list(images))
    return {
        output.name: output.laid_out(torch.stack([maps[output.task.name].decoded for maps in made]))
        for output in outputs
        if not output.probabilities
    }


def _largest(before: float, now: float) -> float:
    """The larger of two numbers, and not a number if one of them is not."""
    return before if now <= before or math.isnan(before) else now


def _short(value: float) -> str:
    return f"{value:.1e}" if value else "0"
