"""The page of recipes says what the recipes say."""

import docs.recipes
from tests.recipes.papers import PAPERS, STUDIES


def test_the_tables_are_those_that_the_recipes_give() -> None:
    page = docs.recipes.PAGE.read_text()
    assert docs.recipes.written(page) == page


def test_every_recipe_and_study_is_on_the_page() -> None:
    page = docs.recipes.PAGE.read_text()
    for name in PAPERS:
        assert f"| `{name.partition('/')[2]}` |" in page, name
    for name in STUDIES:
        assert f"| `{name}` |" in page, name
