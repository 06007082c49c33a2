"""Every encoder and every decoder, exported; docs/export_table.py tries every pair and writes a table."""

import json

import pytest
from docs.export_table import DATA, PAGE, networks, tried, written

from plait import registry
from plait.testing import tiny_backbone


def test_the_table_is_of_every_pair_and_every_family() -> None:
    assert set(json.loads(DATA.read_text())["networks"]) == {name for name, _ in networks()}


def test_the_page_has_the_table_s_numbers() -> None:
    page = PAGE.read_text()
    assert written(page) == page


@pytest.mark.slow
@pytest.mark.parametrize("encoder", registry.ENCODERS)
def test_every_encoder_exports(encoder: str) -> None:
    found = tried(tiny_backbone, encoder, "independent")
    assert all(isinstance(error, float) for error in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("decoder", registry.DECODERS)
def test_every_decoder_exports(decoder: str) -> None:
    found = tried(tiny_backbone, "shared", decoder)
    assert all(isinstance(error, float) for error in found.values()), found
