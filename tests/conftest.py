"""What every test shares: one thread, the processor, no network, a cache of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports the hub's client, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"

GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
"""Which GPUs could be seen: only tests/test_gpu.py uses them, so all other tests mean the same everywhere."""
os.environ["CUDA_VISIBLE_DEVICES"] = ""


settings.register_profile("the same everywhere", derandomize=True, deadline=None, database=None)
settings.load_profile("the same everywhere")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches go to a folder of this session, and hubs are never asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        yield


@pytest.fixture
def recipes() -> Path:
    """The folder of the built-in recipes."""
    import plait

    return Path(plait.__file__).parent / "recipes"
