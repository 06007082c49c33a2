"""The LightningModule of docs/foreign_loops.md makes the steps of a plain loop."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

PAGE = Path(__file__).parents[2] / "docs" / "foreign_loops.md"
RULES = ("upgrad", "uncertainty", "dwa")
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
# What Lightning says on its own account: of torch's tree of batches, workers of loaders, and idle GPUs.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:The .train_dataloader. does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]
TWO_PROCESSES = """
import os
import sys

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning_network import Network, SumOfShares
from tests.balancing.test_lightning import QUIET, RULES, data

if __name__ == "__main__":
    for rule in RULES:
        seed_everything(0, verbose=False)
        model = Network(rule)
        strategy = SumOfShares(process_group_backend="gloo")
        # Lightning's own sampler for several processes shuffles.
        trainer = Trainer(devices=2, strategy=strategy, max_epochs=3, use_distributed_sampler=False, **QUIET)
        trainer.fit(model, data(first=int(os.environ.get("LOCAL_RANK", 0)), processes=2))
        torch.save(model.state_dict(), f"{sys.argv[1]}/{rule} {trainer.global_rank}.pt")
"""


def code() -> str:
    """The last block of the page, which is the module."""
    found: str = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)[-1]
    return found


@pytest.fixture(scope="module")
def network() -> Any:
    """The class on the page."""
    names: dict[str, Any] = {"__name__": "lightning_network"}
    exec(compile(code(), PAGE.name, "exec"), names)
    return names["Network"]


def data(first: int = 0, processes: int = 1) -> DataLoader[Any]:
    """Two batches of four images, or one process's part: two tasks whose labels differ a thousandfold."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, 6, 6, generator=generator)
    labels = torch.randn(8, 4, 6, 6, generator=generator)
    samples = [
        (image, {"depth": 1000 * label[:1], "normals": label[1:]})
        for image, label in zip(images, labels, strict=True)
    ]
    return DataLoader(samples[first::processes], batch_size=4 // processes)  # type: ignore[arg-type]


def plain_loop(network: Any, rule: str, epochs: int) -> dict[str, Tensor]:
    """What the module comes to without Lightning."""
    torch.manual_seed(0)
    model = network(rule)
    optimizer = model.configure_optimizers()
    for _ in range(epochs):
        for images, labels in data():
            features = model.trunk(images)
            losses = {
                task: (head(features) - labels[task]).abs().mean() for task, head in model.heads.items()
            }
            optimizer.zero_grad()
            model.balancer.backward(losses, parameters=model.trunk.parameters())
            optimizer.step()
        model.balancer.end_epoch()
    state: dict[str, Tensor] = model.state_dict()
    return state


@pytest.mark.parametrize("rule", RULES)
def test_it_makes_the_steps_of_a_plain_loop(network: Any, rule: str) -> None:
    """Bit by bit, what the rule keeps and learns included."""
    from lightning.pytorch import Trainer

    torch.manual_seed(0)
    model = network(rule)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Trainer(max_epochs=3, devices=1, **QUIET).fit(model, data())
    found, expected = model.state_dict(), plain_loop(network, rule, epochs=3)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert not torch.equal(found["trunk.0.weight"], before["trunk.0.weight"])


def test_its_checkpoint_holds_the_balancer(network: Any, tmp_path: Path) -> None:
    """Stopped after two epochs and gone on with, it ends where it would have; the rule's means are needed."""
    from lightning.pytorch import Trainer

    torch.manual_seed(0)
    first = Trainer(max_epochs=2, devices=1, **QUIET)
    first.fit(network("dwa"), data())
    first.save_checkpoint(tmp_path / "stopped.ckpt")
    model = network("dwa")
    Trainer(max_epochs=3, devices=1, **QUIET).fit(model, data(), ckpt_path=tmp_path / "stopped.ckpt")
    for name, value in plain_loop(network, "dwa", epochs=3).items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(network: Any, tmp_path: Path) -> None:
    """Without DDP's wrapper: each process has two of four images, and both end with the weights of one."""
    (tmp_path / "lightning_network.py").write_text(code())
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    done = subprocess.run(
        [sys.executable, "two.py", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PAGE.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for rule in RULES:
        ranks = [torch.load(tmp_path / f"{rule} {rank}.pt") for rank in range(2)]
        for name, value in plain_loop(network, rule, epochs=3).items():
            torch.testing.assert_close(ranks[0][name], value, rtol=1e-4, atol=1e-6)
            assert torch.equal(ranks[0][name], ranks[1][name]), name
