"""The published network of a study, and the facts on its card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mnist_search.errors import NotFound
from mnist_search.evaluation.finals import finalist_name, finals_of, select_champion
from mnist_search.evaluation.statistics import SeedStatistics, seed_statistics
from mnist_search.records import FinalTask, StudyRecord, TrialRecord
from mnist_search.search.study import SearchStudy
from mnist_search.storage import weights as stored_weights
from mnist_search.storage.database import Store
from search_space import TrialConfig
from search_space.serialization import to_dict


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """A trained network to export.

    Attributes:
        weights: as safetensors.
        card: architecture, training and results, as plain values.
    """

    config: TrialConfig
    weights: bytes
    card: dict[str, Any]


def champion(store: Store, study: str, trial: int | None = None) -> Champion:
    """A study's champion: the best finalist by repeated validation, trained with the first seed.

    Neither the finalist nor the seed is selected on the test set. Without finals, or for a given trial,
    it is the trial's own network, which has a validation accuracy only.

    Raises:
        NotFound: no complete trial, no such trial, or its weights were not kept.
    """
    search_study = SearchStudy.open(store, study)
    record = search_study.record()
    if trial is None and (final := final_evaluation(store, record)):
        return _champion(record, final.trial, final.weights(store), final.results())
    selected = _selected(record, trial)
    kept_weights = search_study.queue.kept_weights()
    weights = kept_weights.get(selected.trial_id)
    if weights is None:
        numbers = ", ".join(str(t.number) for t in record.trials if t.trial_id in kept_weights)
        raise NotFound(
            f"the weights of trial {selected.number} were not kept; those of {numbers or 'none'} were, "
            "choose one with --trial"
        )
    results = {"val_accuracy": selected.val_accuracy, "trained_on": record.config.train_images}
    return _champion(record, selected, weights, results)


def _selected(record: StudyRecord, number: int | None) -> TrialRecord:
    """The trial with this number, or the best one; NotFound unless it is complete."""
    if number is None:
        if record.best is None:
            raise NotFound(
                f"study {record.name!r} has no complete trial yet ({len(record.done)} of {record.n_trials} "
                f"trials done); continue it with mnist-search resume {record.name}"
            )
        return record.best
    trial = record.trial(number)
    if trial is None:
        raise NotFound(f"study {record.name!r} has no trial {number}; see mnist-search trials {record.name}")
    if trial.state != "COMPLETE":
        raise NotFound(
            f"trial {number} of study {record.name!r} is {trial.state}, and only complete trials have weights; "
            f"see mnist-search trials {record.name}"
        )
    return trial


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalEvaluation:
    """Final evaluation of a study's champion.

    Attributes:
        trial: of the search.
        final: the complete final trial with the first seed.
        statistics: over all seeds.
    """

    trial: TrialRecord
    final: TrialRecord
    statistics: SeedStatistics

    @property
    def task(self) -> FinalTask:
        """What the final trial trained."""
        assert self.final.task is not None
        return self.final.task

    def weights(self, store: Store) -> bytes:
        """The weights of the final trial; UnusableConfiguration if they are missing or damaged."""
        name = f"{self.task.name}, seed {self.task.seed}"
        return stored_weights.of_trial(store, self.final.trial_id, name)

    def results(self) -> dict[str, Any]:
        """The results on a card."""
        return {
            "test_accuracy": self.final.test_accuracy,
            "seed": self.task.seed,
            "n_seeds": self.statistics.n_seeds,
            "test_accuracy_mean": self.statistics.test_accuracy_mean,
            "test_accuracy_sd": self.statistics.test_accuracy_sd,
            "test_accuracy_low": self.statistics.low,
            "test_accuracy_high": self.statistics.high,
            "test_accuracy_worst": self.statistics.worst,
            "device": self.final.device,
            "version": self.final.version,
            "promised_val_accuracy": self.trial.val_accuracy,
            "trained_on": 60_000,
        }


def final_evaluation(store: Store, record: StudyRecord) -> FinalEvaluation | None:
    """Of the champion in the last finished round of finals; None without one."""
    finals = finals_of(store, record)
    if finals is None:
        return None
    for number in range(finals.rounds, 0, -1):
        trials = finals.of_round(number)
        trial = select_champion(record, trials)
        if trial is None or any(each.is_open for each in trials):
            continue
        name = finalist_name(trial)
        evaluated = (t for t in trials if t.test_accuracy is not None and t.task and t.task.name == name)
        (statistics,) = (row for row in seed_statistics(trials) if row.name == name)
        return FinalEvaluation(trial=trial, final=next(evaluated), statistics=statistics)
    return None


def _champion(record: StudyRecord, trial: TrialRecord, weights: bytes, results: dict[str, Any]) -> Champion:
    config = record.config.space.decode(trial.params)
    card = {
        "study": record.name,
        "trial": trial.number,
        "budget": record.config.budget,
        "parameters": config.architecture.num_params(),
        "multiply_adds": config.architecture.multiply_adds(),
        "network": str(config.architecture),
        "trials": len(record.done),
        "split": list(record.config.split),
        **results,
        "architecture": to_dict(config.architecture),
        "training": to_dict(config.training),
    }
    return Champion(config=config, weights=weights, card=card)
