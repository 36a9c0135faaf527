"""Trials and finals that are finished without training."""

from __future__ import annotations

from optuna.trial import TrialState

from mnist_search.evaluation.finals import finalist_name, finalists, finals_of, next_tasks, select_round
from mnist_search.records import EpochMetrics
from mnist_search.search.study import SearchStudy
from mnist_search.storage.finals import FinalsStudy, finals_uid, name_of_finals
from mnist_search.storage.tracked import TrackedStudy


def complete_trial(search_study, accuracy, *, loss=0.1, num_params=1000, weights=None, keep=0):
    """Complete the next trial of a search after one epoch; ``weights`` is called with its claim."""
    claim = search_study.claim()
    claim.trial.set_user_attr("num_params", num_params)
    search_study.queue.report(claim, EpochMetrics(epoch=1, val_accuracy=accuracy, val_loss=loss))
    safetensors = weights(claim) if weights else None
    search_study.queue.finish(claim, TrialState.COMPLETE, [accuracy], safetensors=safetensors, keep=keep)
    return claim


def open_finals(store, record):
    return FinalsStudy.open_or_create(store, name_of_finals(record.name), finals_uid(record.uid))


def finish_final(finals, accuracy, *, loss=0.1, weights=None, reason=None):
    """Finish the next final trial: complete with ``accuracy``, or failed for ``reason``."""
    claim = finals.queue.claim()
    claim.trial.set_user_attr("device", "cpu")
    if accuracy is None:
        attributes = {"reason": reason or "diverged: loss nan"}
        finals.queue.finish(claim, TrialState.FAIL, attributes=attributes, keep=None)
    else:
        finals.queue.finish(claim, TrialState.COMPLETE, [accuracy, loss], safetensors=weights, keep=None)
    return claim


def finish_finals(store, record, accuracies, *, top, seeds, weights=lambda _task: None):
    """Finals of every finalist, of which as many are finished as there are accuracies; None is a failed one."""
    best = finalists(record, top)
    names = [finalist_name(trial) for trial in best]
    number = select_round(finals_of(store, record), record.name, names, seeds, again=False)
    tasks = next_tasks(record, best, [], number=number, seeds=seeds, evaluate_all=True)
    finals = open_finals(store, record)
    finals.add(tasks)
    for task, accuracy in zip(tasks, accuracies, strict=False):
        finish_final(finals, accuracy, weights=weights(task) if accuracy else None)
    return finals


def make_study(store, study_config, name="s"):
    """A study with a complete and a released trial, kept weights, a link to MLflow and finals."""
    study = SearchStudy.open_or_create(store, name, study_config, 5)
    complete_trial(study, 0.9, weights=lambda _claim: b"weights", keep=1)
    study.queue.release(study.claim())
    record = study.record()
    TrackedStudy(store, name).record_run(record.trials[0], "run", "model")
    finish_finals(store, record, [0.9], top=1, seeds=2, weights=lambda _task: b"weights")
    return study
