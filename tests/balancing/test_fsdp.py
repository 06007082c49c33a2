"""FSDP serves rules on losses; rules on gradients refuse it in one sentence."""

from typing import Any

import pytest
import torch
from tests.balancing.fsdp_processes import IMAGES, ON_LOSSES, Network, losses
from tests.processes import run_both

import plait.balancing


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("fsdp")
    run_both(["-m", "tests.balancing.fsdp_processes"], folder, seconds=240)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", ON_LOSSES)
def test_rules_on_losses(name: str, both: list[dict[str, Any]]) -> None:
    """Sharded over two processes, the gradients are those of the whole network on the whole batch."""
    model = Network()
    plait.balancing.create(name, tasks=["a", "b"]).backward(losses(model, IMAGES))
    for found in both:
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(found[name][key], parameter.grad)


def test_rules_on_gradients_refuse_it(both: list[dict[str, Any]]) -> None:
    for found in both:
        parameters, features, drops = found["refusals"]
        for sentence in (parameters, features):
            assert sentence.startswith(
                "MGDA takes each task's gradient, but FSDP holds a part of each parameter"
            )
            assert sentence.endswith(
                "use a rule on losses (such as 'uncertainty' or 'dwa'), or train without FSDP"
            )
        assert drops.startswith("Equal leaves out tasks that overflow, but FSDP")
