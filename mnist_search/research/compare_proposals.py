"""Compare samplers by the first rung of screening: trials of a complete schedule of two epochs.

Every search has 50 trials within the budget on 10,000 images. The network that it finds is trained again
with other seeds and evaluated on a second validation set, which no search has seen. Run one process per
core.

    python -m mnist_search.research.compare_proposals train FILE.jsonl --part 0 --parts 2
    python -m mnist_search.research.compare_proposals report FILE.jsonl
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import optuna
import typer
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from experiments import StudyConfig
from mnist_search.data import mnist
from mnist_search.data.dataset import Digits, Split, load_split
from mnist_search.research import jsonl
from mnist_search.research.compare_searches import final_accuracy
from mnist_search.search.mutation import MutationSampler
from mnist_search.search.samplers import derive_seed, sampler_for_trial, trial_seed
from mnist_search.search.warm_start import known_templates
from mnist_search.training.device import resolve_device

BUDGET, EPOCHS, TRIALS = 8000, 2, 50
TRAIN_IMAGES, VAL_IMAGES = 10_000, 10_000
SCORE_SEEDS = (1, 2, 3, 4, 5)
"""Seeds of the repeated training runs of the network that a search has found."""


class AlternatingSampler(BaseSampler):
    """Lets the samplers propose in turns, by the number of the trial."""

    def __init__(self, samplers: Sequence[BaseSampler]) -> None:
        self._samplers = samplers

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        return self._samplers[trial.number % len(self._samplers)]

    def reseed_rng(self) -> None:
        """Call the samplers."""
        for sampler in self._samplers:
            sampler.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The joint params of the sampler of this trial."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The joint proposal of the sampler of this trial."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The independent proposal of the sampler of this trial."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)


def tpe(seed: int, n_startup_trials: int = 10) -> TPESampler:
    """Optuna's TPE as the project uses it."""
    return TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=n_startup_trials)


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "tpe": tpe,
    "mutation": MutationSampler,
    "tpe and mutation": lambda seed: AlternatingSampler([tpe(seed), MutationSampler(seed)]),
    "random": lambda seed: RandomSampler(seed=seed),
    "tpe, 5 startup trials": lambda seed: tpe(seed, 5),
    "gp": lambda seed: GPSampler(seed=seed, warn_independent_sampling=False),
}


def train(
    out: Path,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    part: jsonl.PartOption = 0,
    parts: jsonl.PartsOption = 1,
    data_dir: jsonl.DataOption = None,
    device: jsonl.DeviceOption = "auto",
) -> None:
    """Run one part of the searches; writes a JSON line per search."""
    jsonl.run_part(out, _tasks(seeds, data_dir, device), part, parts)


def _tasks(seeds: int, data_dir: Path | None, device: str) -> Iterator[jsonl.Task]:
    rest = 60_000 - VAL_IMAGES
    data = load_split(mnist.resolve_data_dir(data_dir), rest, VAL_IMAGES, 0, resolve_device(device))
    split, second_val = Split(data.train[:TRAIN_IMAGES], data.val), data.train[rest - VAL_IMAGES :]
    for seed in range(seeds):
        for has_templates in (False, True):
            for name in SAMPLERS:
                key = {"sampler": name, "templates": has_templates, "seed": seed}
                yield key, partial(search, name, seed, split, second_val, has_templates=has_templates)


def search(
    name: str, seed: int, data: Split, second_val: Digits, *, has_templates: bool, trials: int = TRIALS
) -> dict[str, Any]:
    """Train the proposals of a sampler, then the best network again."""
    config = StudyConfig.for_budget(BUDGET, epochs=EPOCHS, seed=seed)
    study = optuna.create_study(direction="maximize")
    for params in known_templates(config) if has_templates else ():
        study.enqueue_trial(params)
    accuracies = []
    for number in range(trials):
        sampler = SAMPLERS[name](derive_seed(seed, number))
        study.sampler = sampler_for_trial(config, number, sampler, study.get_trials(deepcopy=False))
        trial = study.ask()
        proposal = config.space.suggest(trial)
        trial.set_user_attr("num_params", proposal.architecture.num_params())
        accuracy = final_accuracy(proposal, data, trial_seed(config, number))
        accuracies.append(accuracy)
        study.tell(trial, accuracy, state=TrialState.FAIL if accuracy is None else None)
    best = config.space.decode(study.best_params)
    again = Split(data.train, second_val)
    return {
        "accuracies": accuracies,
        "best": study.best_trial.number,
        "params": study.best_params,
        "again": [final_accuracy(best, again, derive_seed(seed, score, 2)) for score in SCORE_SEEDS],
    }


def report(out: Path) -> None:
    """Print the results of every sampler over its seeds."""
    lines = jsonl.read(out)
    typer.echo("| sampler | templates | seeds | network found, trained again, mean (sd) | its validation | "
               "found by a template | best quarter, mean |\n|---|---|--:|--:|--:|--:|--:|")  # fmt: skip
    for has_templates in (False, True):
        for name in SAMPLERS:
            runs = [r for r in lines if (r["sampler"], r["templates"]) == (name, has_templates)]
            if runs:
                typer.echo(_row(name, runs, has_templates=has_templates))


def _row(name: str, runs: list[dict[str, Any]], *, has_templates: bool) -> str:
    scores = [100 * mean(accuracy or 0.0 for accuracy in run["again"]) for run in runs]
    curves = [sorted((accuracy or 0.0 for accuracy in run["accuracies"]), reverse=True) for run in runs]
    n_templates = len(known_templates(StudyConfig.for_budget(BUDGET))) if has_templates else 0
    spread = f" ({stdev(scores):.3f})" if len(scores) > 1 else ""
    quarter = mean(100 * mean(curve[: max(1, len(curve) // 4)]) for curve in curves)
    return (
        f"| {name} | {'yes' if has_templates else 'no'} | {len(runs)} | {mean(scores):.3f}{spread} | "
        f"{100 * mean(curve[0] for curve in curves):.2f} | {sum(run['best'] < n_templates for run in runs)} | "
        f"{quarter:.2f} |"
    )


if __name__ == "__main__":
    jsonl.run_commands(train, report)
