"""Study configurations, baselines, defaults and published results."""

from experiments import seed_000, seed_001, seed_002, seed_003, seed_004
from experiments.recipe import Recipe, ReportedResult
from experiments.study_config import StudyConfig

BASELINES: dict[str, Recipe] = {
    module.RECIPE.name: module.RECIPE for module in (seed_000, seed_001, seed_002, seed_003, seed_004)
}
"""The five hand-tuned projects that searches are compared with, by name."""

__all__ = ["BASELINES", "Recipe", "ReportedResult", "StudyConfig"]
