"""Architectures, training configurations and their search space: values and arithmetic, no torch, no I/O."""

from search_space.architecture import Architecture
from search_space.budget import ParameterBudget
from search_space.space import SearchSpace, TrialConfig
from search_space.training_config import TrainingConfig

__all__ = ["Architecture", "ParameterBudget", "SearchSpace", "TrainingConfig", "TrialConfig"]
