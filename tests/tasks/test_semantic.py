"""Class maps: what is decided where the network's output is not finite."""

import torch

from plait.tasks import parse
from plait.tasks.pictures import GREY


def test_logits_that_are_not_finite_are_no_class() -> None:
    (task,) = parse({"semantic": {"kind": "semantic", "classes": 3}})
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, torch.nan, 1.0], [torch.inf, 0.0, 0.0]]).T[None, :, None]
    decoded = task.decode(logits)
    assert decoded.tolist() == [[[[1, 255, 255]]]]
    assert (task.picture(decoded[0])[0, 1:] == GREY).all()
    metric = task.metric()
    metric.update(decoded, torch.tensor([1, 0, 255]).view(1, 1, 1, 3))
    assert metric.compute() == {"miou": 0.5, "pixel_accuracy": 0.5}
