"""The recipes and studies of the data sets that papers use."""

from plait.config import load_recipe
from plait.recipes import recipes, studies

SETS = ("nyud", "pascal_context", "cityscapes")
PAPERS = {name: load_recipe(path) for name, path in recipes().items() if name.partition("/")[0] in SETS}
STUDIES = [name for name in studies() if name.partition("/")[0] in SETS]
