"""The network of a study that people take away, and what can honestly be said of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mnist_search.errors import NotFound
from mnist_search.evaluation.finals import Summary, finals_of, summaries
from mnist_search.records import StudyRecord, TrialRecord
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.final_queue import FinalQueue, FinalTraining
from search_space import TrialConfig
from search_space.serialization import to_dict


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """A trained network with its story.

    Attributes:
        weights: as safetensors.
        card: everything that is said of it, as plain values.
    """

    config: TrialConfig
    weights: bytes
    card: dict[str, Any]


def champion(store: Store, study: str, trial: int | None = None) -> Champion:
    """A study's champion: the finalist that validation put first, trained with the first seed.

    The test set does not choose, neither among finalists nor among seeds. Without finals, or for a
    given trial, it is the trial's own network, of which only validation can be told.

    Raises:
        NotFound: no complete trial, no such trial, or its weights were not kept.
    """
    search_study = SearchStudy.open(store, study)
    record = search_study.record()
    final = final_summary(store, record) if trial is None else None
    if final is not None:
        about = _test_results(final) | {"promised_val_accuracy": final.trial.val_accuracy}
        judged = final.series.weights_of(final.training)
        return _champion(record, final.trial, judged, about | {"trained_on": 60_000})
    chosen = record.best if trial is None else record.trial(trial)
    if chosen is None:
        raise NotFound(f"study {study!r} has no such trial; mnist-search trials {study} lists them")
    weights = search_study.queue.kept_weights().get(chosen.trial_id)
    if weights is None:
        kept = ", ".join(
            str(t.number) for t in record.trials if t.trial_id in search_study.queue.kept_weights()
        )
        raise NotFound(f"the weights of trial {chosen.number} were not kept; those of {kept or 'none'} were")
    about = {"val_accuracy": chosen.val_accuracy, "trained_on": record.config.train_images}
    return _champion(record, chosen, weights, about)


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """How a study's champion did in the finals.

    Attributes:
        training: of the champion with its first seed.
        summary: of the champion over all seeds.
    """

    trial: TrialRecord
    series: FinalQueue
    training: FinalTraining
    summary: Summary


def final_summary(store: Store, record: StudyRecord) -> Final | None:
    """The first finalist by validation that could be trained, in the latest finished finals."""
    held = [series for series in finals_of(store, record) if not series.open]
    if not held:
        return None
    first_seed = {t.task.name: t for t in reversed(held[-1].trainings()) if _is_trained(t)}
    summary_of = {summary.name: summary for summary in summaries(held[-1])}
    for trial in record.ranked:
        name = f"trial {trial.number}"
        if name in first_seed:
            return Final(trial=trial, series=held[-1], training=first_seed[name], summary=summary_of[name])
    return None


def _is_trained(training: FinalTraining) -> bool:
    return training.result is not None and training.result.failure is None


def _test_results(final: Final) -> dict[str, Any]:
    result, told = final.training.result, asdict(final.summary)
    assert result is not None
    spread = ("mean", "sd", "low", "high", "worst")
    return {
        "test_accuracy": result.test_accuracy,
        "seed": final.training.task.seed,
        "n_seeds": final.summary.n_seeds,
        **{f"test_accuracy_{name}": told[name] for name in spread},
        "device": result.device,
        "version": result.version,
    }


def _champion(record: StudyRecord, trial: TrialRecord, weights: bytes, about: dict[str, Any]) -> Champion:
    experiment = record.config
    config = experiment.space.decode(trial.params)
    card = {
        "study": record.name,
        "trial": trial.number,
        "budget": experiment.budget,
        "parameters": config.architecture.num_params(),
        "multiply_adds": config.architecture.multiply_adds(),
        "network": str(config.architecture),
        "trials": len(record.done),
        "split": [experiment.train_images, experiment.val_images, experiment.split_seed],
        **about,
        "architecture": to_dict(config.architecture),
        "training": to_dict(config.training),
    }
    return Champion(config=config, weights=weights, card=card)
