"""Every encoder and every decoder, exported; docs/export_table.py tries every pair and writes a table."""

import sys

import pytest
from tests.pages import ROOT

from plait import registry
from plait.testing import tiny_backbone

sys.path.insert(0, str(ROOT / "docs"))
from export_table import tried


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
