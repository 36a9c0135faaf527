"""Which: named recipes (the five seeds), the definition of a search, the leaderboard and the log."""

from experiments import seed_000, seed_001, seed_002, seed_003, seed_004
from experiments.recipe import Recipe, ReportedResult
from experiments.study_config import Difference, StudyConfig

BASELINES: dict[str, Recipe] = {
    module.RECIPE.name: module.RECIPE for module in (seed_000, seed_001, seed_002, seed_003, seed_004)
}
"""The five projects that this one grew from, by name."""

__all__ = ["BASELINES", "Difference", "Recipe", "ReportedResult", "StudyConfig"]
