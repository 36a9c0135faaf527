"""Finals: no task is lost or trained twice, and nothing takes them for a search."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from experiments import BASELINES
from experiments.defaults import TRAINING
from mnist_search.errors import StudyConflict, UnusableConfiguration
from mnist_search.records import EpochMetrics, FinalTask
from mnist_search.search.study import SearchStudy
from mnist_search.storage import finals as stored_finals
from mnist_search.storage import studies, weights
from mnist_search.storage.finals import FinalsStudy
from mnist_search.storage.leases import ProcessIdentity
from mnist_search.storage.queue import MAX_CRASHES, LostLease
from mnist_search.storage.tables import leases
from search_space.training_config import SGD, TrainingConfig

QUICK = TrainingConfig(epochs=2, batch_size=50, optimizer=SGD(0.05, nesterov=True))
SMALL = FinalTask(name="small", seed=0, architecture=BASELINES["seed-001"].architecture, training=QUICK)
WEIGHTS = b"trained"


@pytest.fixture
def finals(store):
    """Their supervisor is this process."""
    FinalsStudy.open_or_create(store, "s.finals", "uid.finals")
    return FinalsStudy.open(store, "s.finals", ProcessIdentity.current())


def tasks(*names, seeds=2):
    return [replace(SMALL, name=name, seed=seed) for seed in range(seeds) for name in names]


def finish(finals, claim, accuracy=0.99, safetensors=WEIGHTS):
    finals.queue.report(claim, EpochMetrics(epoch=1, train_loss=0.2))
    values = [accuracy, 0.1]
    finals.queue.finish(claim, TrialState.COMPLETE, values, safetensors=safetensors, keep=None)


def fail(finals, claim, reason):
    finals.queue.finish(claim, TrialState.FAIL, attributes={"reason": reason}, keep=None)


def finish_all(finals):
    while claim := finals.claim():
        finish(finals, claim)


def task_of(claim):
    return FinalTask.from_dict(claim.trial.user_attrs[studies.TASK_ATTR])


def end_workers(store):
    """End the process of every lease, as far as the store knows."""
    with store.engine.begin() as connection:
        connection.execute(sa.update(leases).values(process_started=1.0))


def test_tasks_are_claimed_once_in_order(finals):
    finals.add(tasks("a", "b"))

    claimed = [task_of(finals.claim()) for _ in range(4)]

    assert [(task.name, task.seed) for task in claimed] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert claimed == tasks("a", "b")
    assert finals.claim() is None
    assert all(trial.is_open for trial in finals.record().trials)


def test_finished_trial_keeps_its_result_epochs_and_weights(finals, store):
    finals.add(tasks("a", seeds=1))
    claim = finals.claim()
    finish(finals, claim)

    (trial,) = finals.record().trials
    assert (trial.state, trial.test_accuracy, trial.test_loss) == ("COMPLETE", 0.99, 0.1)
    assert (trial.val_accuracy, trial.attempt) == (None, claim.owner)
    assert [(metrics.epoch, metrics.train_loss) for metrics in trial.curve] == [(1, 0.2)]
    assert trial.num_params == SMALL.architecture.num_params()
    assert weights.of_trial(store, trial.trial_id, "a") == WEIGHTS
    assert not trial.is_open
    assert finals.claim() is None


def test_task_with_a_split_is_stored_and_its_values_are_validation_values(finals):
    task = replace(SMALL, seed=100, split=(50_000, 10_000, 0))
    finals.add([task])
    claim = finals.claim()
    assert task_of(claim) == task
    finish(finals, claim, safetensors=None)

    (trial,) = finals.record().trials
    assert (trial.val_accuracy, trial.val_loss) == (0.99, 0.1)
    assert (trial.test_accuracy, trial.test_loss) == (None, None)
    assert "split" not in SMALL.to_dict()


def test_weights_of_all_finished_trials_are_kept(finals):
    finals.add(tasks("a", "b", "c"))
    finish_all(finals)

    assert list(finals.queue.kept_weights().values()) == [WEIGHTS] * 6


def test_released_trial_is_claimed_again_without_its_epochs(finals):
    finals.add(tasks("a", seeds=1))
    claim = finals.claim()
    finals.queue.report(claim, EpochMetrics(epoch=1, train_loss=0.2))
    finals.queue.release(claim)

    assert finals.record().trials[0].curve == []
    assert task_of(finals.claim()).name == "a"


def test_worker_that_lost_its_lease_can_neither_report_nor_finish_nor_release(finals, store):
    finals.add(tasks("a", seeds=1))
    stale = finals.claim()
    end_workers(store)
    current = finals.claim()

    with pytest.raises(LostLease):
        finals.queue.report(stale, EpochMetrics(epoch=1))
    with pytest.raises(LostLease):
        finish(finals, stale, 0.1, b"stale")
    with pytest.raises(LostLease):
        finals.queue.release(stale)
    finish(finals, current, 0.9, b"current")
    (trial,) = finals.record().trials
    assert (trial.test_accuracy, trial.attempt) == (0.9, current.owner)
    assert weights.of_trial(store, trial.trial_id, "a") == b"current"


def crash_to_the_end(finals, store):
    for _ in range(MAX_CRASHES):
        assert finals.claim()
        end_workers(store)
    assert finals.claim() is None


def test_trial_fails_after_max_attempts(finals, store):
    finals.add(tasks("a", seeds=1))
    crash_to_the_end(finals, store)

    (trial,) = finals.record().trials
    assert (trial.state, trial.reason) == ("FAIL", "its worker crashed 3 times")


def test_add_twice_adds_once(finals):
    finals.add(tasks("a"))
    finals.add(tasks("a"))
    finish_all(finals)
    finals.add(tasks("a", "b"))

    record = finals.record()
    assert [trial.task.name for trial in record.trials] == ["a", "a", "b", "b"]
    assert [trial.task.name for trial in record.current if trial.is_open] == ["b", "b"]


def test_add_repeats_failed_trials_but_not_diverged_ones(finals, store):
    finals.add(tasks("a", "b", "c", seeds=1))
    fail(finals, finals.claim(), "diverged: the loss is nan")
    fail(finals, finals.claim(), "error: ValueError")
    crash_to_the_end(finals, store)

    finals.add(tasks("a", "b", "c", seeds=1))

    assert [task_of(finals.claim()).name for _ in range(2)] == ["b", "c"]
    assert finals.claim() is None
    record = finals.record()
    assert [trial.number for trial in record.current] == [0, 3, 4]
    assert record.n_trials == 3


def test_task_that_was_inserted_twice_is_trained_once(finals):
    """Optuna repeats an insertion whose acknowledgement was lost."""
    finals.add(tasks("a", "b", seeds=1))
    finals.study.add_trial(finals.study.trials[0])
    finish_all(finals)

    record = finals.record()
    assert [trial.state for trial in record.trials] == ["WAITING", "COMPLETE", "COMPLETE"]
    assert len(record.done) == record.n_trials == 2


def test_add_raises_when_a_name_has_another_training(finals):
    finals.add(tasks("a"))

    with pytest.raises(StudyConflict, match="with another training configuration"):
        finals.add([replace(SMALL, name="a", training=TRAINING)])
    assert len(finals.record().trials) == 2


def test_task_of_another_round_is_another_trial(finals):
    finals.add(tasks("a", seeds=1))
    finish_all(finals)
    finals.add([replace(SMALL, name="a", training=TRAINING, round=2)])

    record = finals.record()
    assert record.rounds == 2
    assert [trial.state for trial in record.of_round(1)] == ["COMPLETE"]
    assert [trial.state for trial in record.of_round(2)] == ["WAITING"]


def test_weights_of_a_trial_raises_when_they_are_damaged(finals, store):
    finals.add(tasks("a", seeds=1))
    finish_all(finals)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE mnist_search_weights SET safetensors = x'00'")

    with pytest.raises(UnusableConfiguration, match=r"the weights of a, seed 0 in .* are missing or damaged"):
        weights.of_trial(store, finals.record().trials[0].trial_id, "a, seed 0")


def test_finals_of_two_studies_are_separate(store):
    first = FinalsStudy.open_or_create(store, "first.finals", "first.finals")
    second = FinalsStudy.open_or_create(store, "second.finals", "second.finals")
    first.add(tasks("a"))
    second.add(tasks("b"))
    finish_all(first)

    assert {trial.task.name for trial in second.record().trials} == {"b"}
    assert {trial.state for trial in second.record().trials} == {"WAITING"}
    assert second.queue.kept_weights() == {}


def test_optuna_has_no_best_trial_of_finals(finals):
    finals.add(tasks("a"))
    finish_all(finals)

    with pytest.raises(RuntimeError, match="multi-objective"):
        _ = finals.study.best_trial
    assert finals.study.metric_names == ["accuracy", "loss"]


def test_finals_are_no_search_study(finals, store, study_config):
    SearchStudy.open_or_create(store, "s", study_config, n_trials=1)
    finals.add(tasks("a"))

    assert [study.study_name for study in studies.mnist_search_studies(store)] == ["s"]
    with pytest.raises(UnusableConfiguration, match=r"'s\.finals' is not a search study") as error:
        SearchStudy.open(store, "s.finals")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", [(), ("a",)])
def test_open_or_create_of_a_search_study_raises_when_finals_have_the_name(
    finals, store, study_config, names
):
    finals.add(tasks(*names))
    before = finals.record()

    with pytest.raises(StudyConflict, match=r"'s\.finals' is a study of finals"):
        SearchStudy.open_or_create(store, "s.finals", study_config, n_trials=1)
    assert FinalsStudy.open(store, "s.finals").record() == before


def test_open_or_create_keeps_existing_finals(finals, store):
    finals.add(tasks("a"))

    again = FinalsStudy.open_or_create(store, "s.finals", "another uid")

    assert again.record() == finals.record()
    assert again.record().uid == "uid.finals"


@pytest.mark.parametrize("is_claimed", [False, True])
def test_open_or_create_raises_when_a_search_study_has_the_name(store, study_config, is_claimed):
    search_study = SearchStudy.open_or_create(store, "s.finals", study_config, n_trials=1)
    if is_claimed:
        search_study.claim()

    with pytest.raises(StudyConflict, match="is a study of another kind"):
        FinalsStudy.open_or_create(store, "s.finals", "uid.finals")
    assert SearchStudy.open(store, "s.finals").config == study_config


def test_finals_are_created_again_when_their_creation_was_interrupted(store):
    optuna.create_study(
        study_name="s.finals", storage=store.storage, directions=["maximize", "minimize"]
    ).set_user_attr(studies.UID_ATTR, "interrupted")

    finals = FinalsStudy.open_or_create(store, "s.finals", "uid.finals")

    finals.add(tasks("a", seeds=1))
    assert finals.record().uid == "uid.finals"
    assert finals.study.metric_names == ["accuracy", "loss"]


def test_load_returns_none_without_finals(store, study_config):
    assert stored_finals.load(store, "s.finals", "uid") is None
    SearchStudy.open_or_create(store, "s.finals", study_config, n_trials=1)
    assert stored_finals.load(store, "s.finals", "uid") is None
