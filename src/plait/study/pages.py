"""How the HTML pages are made: templates in this package, which include one style sheet."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent


def environment() -> Environment:
    """What reads the templates of this package; they name each other by their path in it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """A template with its values, and the ``version`` of this package."""
    made = environment().get_template(template)
    return made.render(version=importlib.metadata.version("plait"), **values)
