"""The rule of docs/add/balancer.md balances somebody else's LightningModule."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.balancing.test_lightning import QUIET
from torch.utils.data import DataLoader

PAGE = Path(__file__).parents[2] / "docs" / "add" / "balancer.md"

# What Lightning says on its own account: of torch's tree of batches, workers of loaders, and idle GPUs.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:The .train_dataloader. does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:You called `self.log"),
]


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the page, beside the file of the rule."""
    files = re.findall(
        r"^```python\n# file: (\w+\.py)\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    for name, text in files:
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return runpy.run_path(str(tmp_path / "theirs.py"))["Theirs"]


def test_a_rule_of_one_s_own_trains_somebody_s_lightning_module(theirs: Any) -> None:
    from lightning.pytorch import Trainer

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, 4, generator=generator)
    samples = [(row, {"near": row.sum()[None], "far": 100 * row.mean()[None]}) for row in inputs]
    torch.manual_seed(0)
    module = theirs()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    trainer = Trainer(max_epochs=2, **QUIET)
    trainer.fit(module, DataLoader(samples, batch_size=8))  # type: ignore[arg-type]
    assert trainer.global_step == 8
    assert not any(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
    weights = [float(trainer.callback_metrics[f"weight of {task}"]) for task in ("near", "far")]
    assert max(weights) == 1.0
    assert 0 < min(weights) < 1
