"""Layer 6: everything that a plugin needs, and nothing else. Stable.

A plugin is a module named on the command line (`--plugin my_pkg.my_module`). It may define the
dicts `BLOCKS` (op to Block class), `FAMILIES` (name to `fn(**options) -> Family`), `DATASETS`
(name to `fn(**options) -> Dataset`), `TRAINERS` (name to `fn(model, dataset, recipe, seed)`, which
yields one dict per epoch) and `EVALUATORS` (name to `fn(architecture, *, budget, seed)`, which
returns one dict or yields one per epoch).
"""

from nasctl.arch import Architecture, Block, Cost, Opaque, Scalar, Shape
from nasctl.dataset import Dataset
from nasctl.errors import ConfigError, NasctlError, SpecError
from nasctl.recipe import Recipe
from nasctl.space import Choices, Decision, Family, SearchSpace

__all__ = [
    "Architecture",
    "Block",
    "Choices",
    "ConfigError",
    "Cost",
    "Dataset",
    "Decision",
    "Family",
    "NasctlError",
    "Opaque",
    "Recipe",
    "Scalar",
    "SearchSpace",
    "Shape",
    "SpecError",
]
