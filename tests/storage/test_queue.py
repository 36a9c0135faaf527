"""Trial queue: no trial is lost, trained twice or beyond n_trials."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import optuna
import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from experiments import StudyConfig
from mnist_search.errors import NotFound, StudyConflict, UnusableConfiguration
from mnist_search.records import EpochMetrics
from mnist_search.search.study import SearchStudy
from mnist_search.storage import leases as lease_rows
from mnist_search.storage.database import Store
from mnist_search.storage.leases import ProcessIdentity
from mnist_search.storage.queue import MAX_CRASHES, LostLease
from mnist_search.storage.tables import epochs, leases, weights
from search_space import SearchSpace


@pytest.fixture
def search_study(store, study_config):
    """Its supervisor is this process."""
    SearchStudy.open_or_create(store, "s", study_config, n_trials=5)
    return SearchStudy.open(store, "s", ProcessIdentity.current())


def report(search_study, claim, accuracy, loss=0.1, epoch=1):
    search_study.queue.report(claim, EpochMetrics(epoch=epoch, val_accuracy=accuracy, val_loss=loss))


def finish(search_study, claim, accuracy=0.9):
    claim.trial.set_user_attr("num_params", 1000)
    report(search_study, claim, accuracy, 1 - accuracy)
    search_study.queue.finish(
        claim, TrialState.COMPLETE, [accuracy], safetensors=b"weights %d" % claim.trial.number, keep=2
    )


def epoch_rows(store):
    """Stored epochs: trial id, attempt and number of each."""
    with store.engine.connect() as connection:
        return connection.execute(sa.select(epochs.c.trial_id, epochs.c.attempt, epochs.c.epoch)).all()


def expire(store, **values):
    """End the process of every lease, as far as the store knows."""
    with store.engine.begin() as connection:
        connection.execute(sa.update(leases).values(process_started=1.0, **values))


def run_to_the_end(search_study):
    count = 0
    while claim := search_study.claim():
        finish(search_study, claim)
        count += 1
    return count


def test_queue_has_exactly_n_trials(search_study):
    assert run_to_the_end(search_study) == 5
    assert search_study.claim() is None
    assert len(search_study.record().done) == 5


def test_n_trials_is_raised_and_never_lowered(search_study):
    run_to_the_end(search_study)

    search_study.raise_n_trials(3)
    assert search_study.n_trials == 5
    search_study.raise_n_trials(7)
    assert run_to_the_end(search_study) == 2


def test_running_trial_takes_a_slot(search_study):
    claims = [search_study.claim() for _ in range(5)]

    assert search_study.claim() is None
    assert len({claim.trial.number for claim in claims}) == 5


def test_claim_suggests_every_param(search_study, study_config):
    claim = search_study.claim()

    assert claim.trial.params.keys() == study_config.space.distributions.keys()


def test_claim_without_a_proposal_takes_added_trials_only(search_study):
    search_study.study.enqueue_trial({"depth": 3})

    claim = search_study.queue.claim()

    assert claim.trial.number == 0
    assert claim.trial.params == {}
    assert search_study.queue.claim() is None
    search_study.queue.release(claim)
    assert search_study.queue.claim().trial.number == 0


def test_reported_epoch_is_stored_under_its_attempt_and_reported_to_optuna(search_study, store):
    claim = search_study.claim()
    report(search_study, claim, 0.5, epoch=1)
    report(search_study, claim, 0.7, epoch=2)

    (trial,) = search_study.record().trials
    assert [metrics.val_accuracy for metrics in trial.curve] == [0.5, 0.7]
    assert trial.attempt == claim.owner
    assert epoch_rows(store) == [(claim.trial_id, claim.owner, 1), (claim.trial_id, claim.owner, 2)]
    assert search_study.study.trials[0].intermediate_values == {1: 0.5, 2: 0.7}


def test_repeated_report_stores_one_epoch(search_study, store):
    claim = search_study.claim()
    report(search_study, claim, 0.5)
    report(search_study, claim, 0.5)

    assert epoch_rows(store) == [(claim.trial_id, claim.owner, 1)]


def test_repeated_finish_changes_nothing(search_study):
    claim = search_study.claim()
    finish(search_study, claim)
    before = search_study.record().trials

    search_study.queue.finish(claim, TrialState.COMPLETE, [0.1], safetensors=b"other", keep=2)

    assert search_study.record().trials == before
    assert list(search_study.queue.kept_weights().values()) == [b"weights 0"]


def test_reason_and_traceback_are_stored_without_passwords(search_study):
    claim = search_study.claim()
    attributes = {"reason": "error: postgresql://u:secret@host/db", "traceback": "http://u:secret@host"}

    search_study.queue.finish(claim, TrialState.FAIL, attributes=attributes)

    (trial,) = search_study.record().done
    assert (trial.reason, trial.traceback) == ("error: postgresql://u:***@host/db", "http://u:***@host")


def test_released_trial_is_claimed_again_with_its_number_and_params(search_study, store):
    claim = search_study.claim()
    report(search_study, claim, 0.5)
    search_study.queue.release(claim)
    assert search_study.record().trials[0].state == "WAITING"

    again = search_study.claim()

    assert again.trial.number == claim.trial.number
    assert again.trial.params == claim.trial.params
    assert search_study.study.trials[0].intermediate_values == {}
    assert epoch_rows(store) == []


def test_trial_is_claimed_again_when_its_worker_crashed(search_study, store):
    claim = search_study.claim()
    report(search_study, claim, 0.5)
    expire(store)

    again = search_study.claim()

    assert again.trial.number == claim.trial.number
    assert again.trial.params == claim.trial.params
    assert search_study.record().trials[0].crashes == 1
    assert search_study.record().trials[0].attempt == again.owner
    assert epoch_rows(store) == []


def test_trial_without_a_lease_is_claimed_again(search_study):
    """Its worker crashed between the creation of the trial and its lease."""
    orphan = search_study.study.ask()

    claim = search_study.claim()

    assert claim.trial.number == orphan.number
    assert run_to_the_end(search_study) == 4


def test_lease_of_another_machine_expires_after_its_timeout(search_study, store):
    claim = search_study.claim()
    with store.engine.begin() as connection:
        connection.execute(sa.update(leases).values(host="elsewhere"))
    assert search_study.claim().trial.number == 1

    with store.engine.begin() as connection:
        expired = leases.c.beat - lease_rows.LEASE_TIMEOUT - 1
        connection.execute(sa.update(leases).where(leases.c.trial_id == claim.trial_id).values(beat=expired))

    assert search_study.claim().trial.number == 0


def test_trial_fails_after_max_attempts_and_takes_one_slot(search_study, store):
    for _ in range(MAX_CRASHES):
        search_study.claim()
        expire(store)
    search_study.queue.release_expired()

    first, *_ = search_study.record().trials
    assert (first.state, first.reason) == ("FAIL", "its worker crashed 3 times")
    assert run_to_the_end(search_study) == 4


def test_expired_attempts_whose_supervisor_has_ended_too_are_no_crashes(search_study, store):
    """The machine was switched off, or all processes were killed."""
    for _ in range(MAX_CRASHES):
        claim = search_study.claim()
        expire(store, supervisor_started=1.0)
    search_study.queue.release_expired()

    (trial,) = search_study.record().trials
    assert (trial.state, trial.crashes) == ("WAITING", 0)
    assert search_study.claim().trial.params == claim.trial.params


def test_expired_attempt_without_a_supervisor_is_no_crash(search_study, store):
    search_study.claim()
    expire(store, supervisor_pid=None)
    search_study.queue.release_expired()

    assert [(trial.state, trial.crashes) for trial in search_study.record().trials] == [("WAITING", 0)]


def test_attempts_that_the_supervisor_has_killed_are_no_crashes(search_study, store):
    search_study.claim()
    expire(store)
    search_study.queue.release_expired(count_crashes=False)

    assert [(trial.state, trial.crashes) for trial in search_study.record().trials] == [("WAITING", 0)]


def test_worker_of_a_failed_trial_cannot_finish_it(search_study, store):
    """It stalled, and two others crashed before."""
    for _ in range(MAX_CRASHES):
        stalled = search_study.claim()
        expire(store)
    search_study.queue.release_expired()

    with pytest.raises(LostLease):
        report(search_study, stalled, 0.9)
    with pytest.raises(LostLease):
        search_study.queue.finish(stalled, TrialState.COMPLETE, [0.9], safetensors=b"weights", keep=2)
    assert search_study.record().trials[0].state == "FAIL"
    assert search_study.queue.kept_weights() == {}


def test_worker_that_lost_its_lease_can_neither_finish_nor_release(search_study, store):
    stale = search_study.claim()
    expire(store)
    current = search_study.claim()

    assert not search_study.queue.renew(stale)
    with pytest.raises(LostLease):
        report(search_study, stale, 0.1)
    with pytest.raises(LostLease):
        search_study.queue.finish(stale, TrialState.PRUNED, attributes={"reason": "stale"})
    with pytest.raises(LostLease):
        search_study.queue.release(stale)
    finish(search_study, current)
    (done,) = search_study.record().done
    assert epoch_rows(store) == [(current.trial_id, current.owner, 1)]
    assert (done.state, done.val_accuracy, done.reason) == ("COMPLETE", 0.9, None)


def test_store_keeps_the_weights_of_the_best_trials_only(search_study):
    for accuracy in (0.5, 0.9, 0.7, 0.95, 0.6):
        finish(search_study, search_study.claim(), accuracy)

    kept = set(search_study.queue.kept_weights().values())
    assert kept == {b"weights 1", b"weights 3"}


def test_store_keeps_every_trained_network_without_a_limit(search_study):
    for accuracy in (0.5, 0.9, 0.7):
        claim = search_study.claim()
        report(search_study, claim, accuracy)
        search_study.queue.finish(
            claim, TrialState.COMPLETE, [accuracy], safetensors=b"%d" % claim.trial.number, keep=None
        )

    assert set(search_study.queue.kept_weights().values()) == {b"0", b"1", b"2"}


def test_kept_weights_leaves_out_damaged_ones_with_a_warning(search_study, store, caplog):
    finish(search_study, search_study.claim(), 0.5)
    search_study.queue.finish(search_study.claim(), TrialState.FAIL, keep=2)
    finish(search_study, search_study.claim(), 0.9)
    with store.engine.begin() as connection:
        flipped = sa.update(weights).where(weights.c.safetensors == b"weights 2")
        connection.execute(flipped.values(safetensors=b"weights 3"))

    with caplog.at_level(logging.WARNING):
        kept = search_study.queue.kept_weights()

    assert list(kept.values()) == [b"weights 0"]
    (message,) = caplog.messages
    assert "the weights of trial 2 in" in message
    assert "damaged" in message


def test_trials_are_ranked_by_accuracy_then_loss_then_number(search_study):
    for loss in (0.5, 0.3, 0.3):
        claim = search_study.claim()
        claim.trial.set_user_attr("num_params", 1000)
        report(search_study, claim, 0.9, loss)
        search_study.queue.finish(claim, TrialState.COMPLETE, [0.9])

    assert [trial.number for trial in search_study.record().ranked] == [1, 2, 0]


def test_enqueued_trial_is_claimed_before_a_new_one_and_takes_a_slot(search_study):
    search_study.study.enqueue_trial({"depth": 3, "dropout": 0.0})

    claim = search_study.claim()

    assert claim.trial.params["depth"] == 3
    finish(search_study, claim)
    assert run_to_the_end(search_study) == 4


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"depth": "bad"}, "invalid: it was enqueued with depth takes 3 to 7, not 'bad'"),
        ({"depth": 99}, "invalid: it was enqueued with depth takes 3 to 7, not 99"),
        ({"optimizer": "lion"}, "invalid: it was enqueued with optimizer takes sgd, adamw, not 'lion'"),
        ({"sgd_lr": None}, "invalid: it was enqueued with sgd_lr takes 0.01 to 0.4"),
    ],
)
def test_trial_enqueued_with_values_outside_the_space_fails_alone(search_study, values, reason):
    search_study.study.enqueue_trial(values)
    search_study.study.enqueue_trial({**full_params(search_study), **values})

    assert run_to_the_end(search_study) == 3  # two of the five slots failed
    first, second, *others = search_study.record().trials
    assert first.state == second.state == "FAIL"
    assert first.reason.startswith(reason)
    assert {trial.state for trial in others} == {"COMPLETE"}


def full_params(search_study):
    space = search_study.config.space
    return space.draw(np.random.RandomState(0)) | {
        name: d.low if hasattr(d, "low") else d.choices[0]
        for name, d in space.distributions.items()
        if name not in space.architecture_params
    }


def test_enqueued_trial_with_an_unknown_param_is_trained(search_study):
    search_study.study.enqueue_trial({"depth": 3, "colour": "red"})

    assert search_study.claim().trial.params["depth"] == 3


def test_enqueued_trial_waits_when_the_study_is_full(search_study):
    run_to_the_end(search_study)
    search_study.study.enqueue_trial({"depth": 3})

    assert search_study.claim() is None


@pytest.mark.parametrize(
    "attributes", [{"over_budget": True}, {"reason": "over budget: 9,999 parameters, 1,500 allowed"}]
)
def test_over_budget_trial_takes_no_slot(search_study, attributes):
    """Stores of version 0.1 have the reason only."""
    claim = search_study.claim()
    search_study.queue.finish(claim, TrialState.PRUNED, attributes=attributes)

    assert run_to_the_end(search_study) == 5
    assert search_study.record().rejected >= 1
    assert len(search_study.record().done) == 5


def test_same_config_continues_and_another_raises(search_study, store, study_config):
    run_to_the_end(search_study)

    assert len(SearchStudy.open_or_create(store, "s", study_config, n_trials=5).record().done) == 5
    with pytest.raises(StudyConflict, match=r"budget is 1500, not 1400"):
        SearchStudy.open_or_create(store, "s", replace(study_config, budget=1400), n_trials=5)
    assert len(search_study.record().trials) == 5


def test_open_raises_when_mnist_search_did_not_create_the_study(store, study_config):
    plain = optuna.create_study(storage=store.storage, study_name="plain")
    plain.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)

    with pytest.raises(UnusableConfiguration, match="is not a search study of mnist-search"):
        SearchStudy.open_or_create(store, "plain", study_config, n_trials=5)
    with pytest.raises(NotFound, match="no study 'missing'"):
        SearchStudy.open(store, "missing")


def test_study_is_created_again_when_its_creation_was_interrupted(store, study_config):
    optuna.create_study(storage=store.storage, study_name="s", direction="maximize")

    assert run_to_the_end(SearchStudy.open_or_create(store, "s", study_config, n_trials=2)) == 2


def test_interrupted_study_makes_the_same_proposals(tmp_path, study_config):
    def proposals(name, interrupt):
        store = Store.open_or_create(f"sqlite:///{tmp_path}/{name}.db")
        search_study = SearchStudy.open_or_create(store, "s", study_config, n_trials=15)
        left = {2, 11, 12}
        while claim := search_study.claim():
            if interrupt and claim.trial.number in left:
                left.remove(claim.trial.number)
                search_study.queue.release(claim)
                search_study = SearchStudy.open(Store.open(store.url, write=True), "s")
                continue
            finish(search_study, claim, accuracy=0.5 + claim.trial.params["depth"] / 100)
        return [trial.params for trial in search_study.study.trials]

    assert proposals("straight", interrupt=False) == proposals("interrupted", interrupt=True)


def test_seed_changes_the_proposals(tmp_path, study_config):
    first = SearchStudy.open_or_create(
        Store.open_or_create(f"sqlite:///{tmp_path}/a.db"), "s", study_config, 1
    )
    other = SearchStudy.open_or_create(
        Store.open_or_create(f"sqlite:///{tmp_path}/b.db"), "s", replace(study_config, seed=1), 1
    )

    assert first.claim().trial.params != other.claim().trial.params


def test_tight_budget_fills_every_slot(store):
    """Fewer than one random configuration in a thousand is within the budget."""
    space = SearchSpace(depth=(3, 7), width=(2, 30), epochs=1)
    tight = StudyConfig(budget=200, space=space, fill=False, sampler="random", pruner="none")
    assert tight.parameter_budget.feasible_share()[0] < 0.001
    search_study = SearchStudy.open_or_create(store, "tight", tight, n_trials=5)

    run_to_the_end(search_study)

    counts = [tight.parameter_budget.count(t.params) for t in search_study.record().trials]
    assert len(counts) == 5
    assert max(counts) <= 200
    assert search_study.record().rejected == 500


class RecordingSampler(RandomSampler):
    """Records the arguments of ``after_trial``."""

    def __init__(self):
        super().__init__()
        self.ended = []

    def after_trial(self, study, trial, state, values):  # noqa: ARG002 - the interface
        self.ended.append((trial.number, state, values))


def test_finish_calls_the_sampler_as_study_tell_does(search_study):
    claim = search_study.claim()
    search_study.study.sampler = sampler = RecordingSampler()
    report(search_study, claim, 0.25)

    search_study.queue.finish(claim, TrialState.PRUNED)

    assert sampler.ended == [(0, TrialState.PRUNED, [0.25])]
    assert search_study.study.trials[0].value == 0.25


def test_trial_is_claimed_again_after_the_store_was_locked_in_the_middle_of_a_claim(
    store, study_config, tmp_path
):
    SearchStudy.open_or_create(store, "s", study_config, n_trials=1)
    search_study = SearchStudy.open(Store.open(store.url, write=True, busy_seconds=0.1), "s")

    def propose(trial):
        with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            study_config.space.suggest(trial)

    with pytest.raises(StorageInternalError):
        search_study.queue.claim(propose)
    assert [trial.state for trial in search_study.record().trials] == ["RUNNING"]

    claim = search_study.claim()
    finish(search_study, claim)

    assert claim.trial.number == 0
    assert search_study.claim() is None
    assert [(t.state, t.crashes) for t in search_study.record().trials] == [("COMPLETE", 0)]
