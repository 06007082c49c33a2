"""The built-in recipes: readable, and comparable where they say so."""

from pathlib import Path

import pytest

import plait
import plait.tasks
from plait.config import load_recipe
from plait.data.rooms.classes import CLASSES
from plait.recipes import recipes
from plait.study.report import differences
from plait.training.run import Run

FOLDER = Path(plait.__file__).parent / "recipes"
RECIPES = sorted(recipes().values())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_and_its_tasks_are_made(path: Path) -> None:
    recipe = load_recipe(path)
    assert plait.tasks.parse(recipe.tasks)
    if recipe.data.name == "rooms" and "semantic" in recipe.tasks:
        assert recipe.tasks["semantic"]["classes"] == list(CLASSES)


@pytest.mark.parametrize(
    "path",
    [p for p in RECIPES if p.stem.startswith("rooms_") and p.stem != "rooms_five"],  # of other tasks
    ids=lambda p: p.stem,
)
def test_rooms_recipes_differ_in_their_way_of_sharing_only(path: Path) -> None:
    ours, shared = (load_recipe(p) for p in (path, FOLDER / "rooms_shared.yaml"))
    assert all(options == shared.tasks[name] for name, options in ours.tasks.items())
    assert differences(Run(path, ours), Run(path, shared)) == []
