"""Energy counters: read where there are any, silent where there are none."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from plait.study import energy
from plait.study.cost import measure_inference
from plait.study.energy import EnergyCounter, Part, energy_counter, nvidia, rapl


def zone(root: Path, folder: str, name: str, microjoules: int = 0, span: int = 1000) -> Path:
    """A counter as Linux shows it."""
    made = root / folder
    made.mkdir()
    (made / "name").write_text(f"{name}\n")
    (made / "max_energy_range_uj").write_text(f"{span}\n")
    (made / "energy_uj").write_text(f"{microjoules}\n")
    return made


def using(zones: dict[Path, int]) -> Callable[[], None]:
    """Something that uses so many microjoules of each counter; past 1000 they begin again."""

    def run() -> None:
        for folder, used in zones.items():
            now = int((folder / "energy_uj").read_text())
            (folder / "energy_uj").write_text(str((now + used) % 1000))

    return run


def test_packages_are_added_each_once_and_their_parts_are_not(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0")
    second = zone(tmp_path, "intel-rapl:1", "package-1")
    others = [
        zone(tmp_path, "intel-rapl:0:0", "core"),
        zone(tmp_path, "intel-rapl:0:1", "dram"),
        zone(tmp_path, "intel-rapl:2", "psys"),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0"),
    ]
    (tmp_path / "intel-rapl").mkdir()
    counter = rapl(tmp_path)
    assert counter is not None
    run = using({first: 100, second: 30, **dict.fromkeys(others, 500)})
    assert counter.joules(run, seconds=0) == pytest.approx(130e-6)
    assert "all 2 whole processors" in counter.of
    assert "other programs" in counter.of


def test_a_counter_that_begins_again_loses_nothing(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", microjoules=950)
    counter = rapl(tmp_path)
    assert counter is not None
    assert counter.joules(using({package: 80}), seconds=0) == pytest.approx(80e-6)
    assert (package / "energy_uj").read_text() == "30"


def test_energy_is_the_mean_over_at_least_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, joules=5.0, waited=0)
    monkeypatch.setattr(energy.time, "perf_counter", lambda: clock.now)

    def run() -> None:
        clock.now += 0.2
        clock.joules += 3.0

    def wait() -> None:
        clock.waited += 1

    counter = EnergyCounter("a made-up device", [Part(lambda: clock.joules)])
    assert counter.joules(run, wait=wait) == pytest.approx(3.0)
    assert clock.waited == 3


@pytest.mark.parametrize("broken", ["energy_uj", "max_energy_range_uj"])
def test_no_energy_is_told_unless_every_package_can_be_read(tmp_path: Path, broken: str) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0")
    (zone(tmp_path, "intel-rapl:1", "package-1") / broken).write_text("?")
    assert rapl(tmp_path) is None


def test_a_machine_without_counters_has_no_energy(tmp_path: Path) -> None:
    assert rapl(tmp_path) is None
    assert rapl(tmp_path / "not there") is None
    zone(tmp_path, "intel-rapl:0:0", "core")
    assert rapl(tmp_path) is None
    assert energy_counter(torch.device("meta")) is None


def test_a_counter_that_stops_or_vanishes_has_no_energy(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", microjoules=7)
    counter = rapl(tmp_path)
    assert counter is not None
    assert counter.joules(lambda: None, seconds=0) is None
    assert counter.joules(lambda: (package / "energy_uj").unlink(), seconds=0) is None


class FakeNVMLError(Exception):
    """What the driver raises."""


def fake_pynvml(millijoules: list[int], *, refuses: bool = False) -> ModuleType:
    """The driver's library, of one GPU called GPU-abc."""
    module = ModuleType("pynvml")

    def handle(name: str) -> str:
        if name != "GPU-abc":
            raise FakeNVMLError
        return name

    def total(_: str) -> int:
        if refuses:
            raise FakeNVMLError
        return millijoules.pop(0)

    module.NVMLError = FakeNVMLError
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByUUID = handle
    module.nvmlDeviceGetTotalEnergyConsumption = total
    return module


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    properties = SimpleNamespace(uuid="abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    return torch.device("cuda:0")


def test_an_nvidia_gpu_is_found_by_its_identity(monkeypatch: pytest.MonkeyPatch, gpu: torch.device) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml([0, 1000, 4500]))
    counter = energy_counter(gpu)
    assert counter is not None
    assert counter.joules(lambda: None, seconds=0) == pytest.approx(3.5)


def test_without_the_extra_or_a_counting_gpu_there_is_no_energy(
    monkeypatch: pytest.MonkeyPatch, gpu: torch.device
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia(gpu) is None
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml([], refuses=True))
    assert nvidia(gpu) is None


def test_a_network_that_is_measured_with_a_counter_has_its_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    joules = SimpleNamespace(now=0.0)

    class Net(torch.nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            joules.now += 2.0
            return super().forward(images)

    monkeypatch.setattr(energy.time, "perf_counter", iter(range(1000)).__next__)
    counter = EnergyCounter("a made-up device", [Part(lambda: joules.now)])
    cost = measure_inference({"net": Net(3, 4, 1)}, {"net": (8, 8)}, repeats=1, counter=counter)["net"]
    assert cost.energy == pytest.approx(2.0)
