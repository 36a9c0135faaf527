"""Claims and places: no trial lost, none twice, never one too many."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from experiments import Experiment
from mnist_search.errors import NotFound, StudyConflict, UnusableConfiguration
from mnist_search.study import leases as lease_rows
from mnist_search.study.ledger import MOST_DEATHS, Ledger, LostLease
from mnist_search.study.store import Store, leases
from search_space import SearchSpace


@pytest.fixture
def ledger(store, experiment):
    return Ledger.open_or_create(store, "s", experiment, target=5)


def settle(ledger, claim, accuracy=0.9):
    claim.trial.set_user_attr("num_params", 1000)
    claim.trial.set_user_attr("curve", [{"epoch": 1, "val_accuracy": accuracy, "val_loss": 1 - accuracy}])
    ledger.settle(claim, TrialState.COMPLETE, accuracy, trained=b"weights %d" % claim.trial.number, keep=2)


def run_to_the_end(ledger):
    count = 0
    while claim := ledger.claim():
        settle(ledger, claim)
        count += 1
    return count


def test_a_study_holds_as_many_trials_as_asked_and_not_one_more(ledger):
    assert run_to_the_end(ledger) == 5
    assert ledger.claim() is None
    assert len(ledger.facts().done) == 5


def test_raising_the_target_makes_room_and_lowering_it_takes_none_away(ledger):
    run_to_the_end(ledger)

    ledger.raise_target(3)
    assert ledger.target == 5
    ledger.raise_target(7)
    assert run_to_the_end(ledger) == 2


def test_a_running_trial_takes_a_place(ledger):
    claims = [ledger.claim() for _ in range(5)]

    assert ledger.claim() is None
    assert len({claim.trial.number for claim in claims}) == 5


def test_genes_are_chosen_when_a_trial_is_claimed(ledger, experiment):
    claim = ledger.claim()

    assert claim.trial.params.keys() == experiment.space.distributions.keys()


def test_a_trial_put_back_is_begun_again_with_its_number_and_genes(ledger):
    claim = ledger.claim()
    claim.trial.report(0.5, 1)
    ledger.put_back(claim)
    assert ledger.facts().trials[0].state == "WAITING"

    again = ledger.claim()

    assert again.trial.number == claim.trial.number
    assert again.trial.params == claim.trial.params
    assert ledger.study.trials[0].intermediate_values == {}


def test_a_trial_of_a_dead_process_is_begun_again(ledger, store):
    claim = ledger.claim()
    with store.engine.begin() as connection:
        connection.execute(sa.update(leases).values(process_started=1.0))  # that process is gone

    again = ledger.claim()

    assert again.trial.number == claim.trial.number
    assert again.trial.params == claim.trial.params
    assert ledger.facts().trials[0].deaths == 1


def test_a_trial_without_a_lease_is_begun_again(ledger):
    """Its worker died between making the trial and writing the lease."""
    orphan = ledger.study.ask()

    claim = ledger.claim()

    assert claim.trial.number == orphan.number
    assert run_to_the_end(ledger) == 4


def test_a_silent_lease_of_another_machine_is_free_after_its_grace(ledger, store):
    claim = ledger.claim()
    with store.engine.begin() as connection:
        connection.execute(sa.update(leases).values(host="elsewhere"))
    assert ledger.claim().trial.number == 1

    with store.engine.begin() as connection:
        quiet = leases.c.beat - lease_rows.GRACE_SECONDS - 1
        connection.execute(sa.update(leases).where(leases.c.trial_id == claim.trial_id).values(beat=quiet))

    assert ledger.claim().trial.number == 0


def test_a_trial_that_kills_its_workers_is_failed_and_counts_once(ledger, store):
    for _ in range(MOST_DEATHS):
        ledger.claim()
        with store.engine.begin() as connection:
            connection.execute(sa.update(leases).values(process_started=1.0))
    ledger.put_back_dead()

    first, *_ = ledger.facts().trials
    assert (first.state, first.reason) == ("FAIL", "its worker died 3 times")
    assert run_to_the_end(ledger) == 4


def test_a_worker_that_lost_its_lease_cannot_settle_or_put_back(ledger, store):
    zombie = ledger.claim()
    with store.engine.begin() as connection:
        connection.execute(sa.update(leases).values(process_started=1.0))
    heir = ledger.claim()

    assert not ledger.beat(zombie)
    with pytest.raises(LostLease):
        ledger.settle(zombie, TrialState.PRUNED, left={"reason": "of a zombie"})
    with pytest.raises(LostLease):
        ledger.put_back(zombie)
    settle(ledger, heir)
    (done,) = ledger.facts().done
    assert (done.state, done.val_accuracy, done.reason) == ("COMPLETE", 0.9, None)


def test_the_store_keeps_the_weights_of_the_best_and_no_others(ledger):
    for accuracy in (0.5, 0.9, 0.7, 0.95, 0.6):
        settle(ledger, ledger.claim(), accuracy)

    kept = set(ledger.kept_weights().values())
    assert kept == {b"weights 1", b"weights 3"}


def test_damaged_weights_are_noticed(ledger, store):
    from mnist_search.study.store import weights

    settle(ledger, ledger.claim())
    with store.engine.begin() as connection:
        connection.execute(sa.update(weights).values(safetensors=b"rotten"))

    with pytest.raises(UnusableConfiguration, match="damaged"):
        ledger.kept_weights()


def test_the_best_is_by_accuracy_then_loss_then_age(ledger):
    for loss in (0.5, 0.3, 0.3):
        claim = ledger.claim()
        claim.trial.set_user_attr("num_params", 1000)
        claim.trial.set_user_attr("curve", [{"epoch": 1, "val_accuracy": 0.9, "val_loss": loss}])
        ledger.settle(claim, TrialState.COMPLETE, 0.9)

    assert [trial.number for trial in ledger.facts().ranked] == [1, 2, 0]


def test_an_enqueued_trial_is_begun_before_a_new_one_and_takes_a_place(ledger):
    ledger.study.enqueue_trial({"depth": 3, "dropout": 0.0})

    claim = ledger.claim()

    assert claim.trial.params["depth"] == 3
    settle(ledger, claim)
    assert run_to_the_end(ledger) == 4


def test_trials_enqueued_beyond_the_target_wait(ledger):
    run_to_the_end(ledger)
    ledger.study.enqueue_trial({"depth": 3})

    assert ledger.claim() is None


def test_an_over_budget_trial_takes_no_place(ledger):
    claim = ledger.claim()
    claim.trial.set_user_attr("reason", "over budget: 9,999 parameters, 1,500 allowed")
    ledger.settle(claim, TrialState.PRUNED)

    assert run_to_the_end(ledger) == 5
    assert ledger.facts().rejected >= 1
    assert len(ledger.facts().done) == 5


def test_the_same_definition_continues_and_another_is_refused(ledger, store, experiment):
    run_to_the_end(ledger)

    assert len(Ledger.open_or_create(store, "s", experiment, target=5).facts().done) == 5
    with pytest.raises(StudyConflict, match=r"budget is 1500 there, 1400 was asked"):
        Ledger.open_or_create(store, "s", replace(experiment, budget=1400), target=5)
    assert len(ledger.facts().trials) == 5


def test_a_study_that_is_not_ours_is_refused(store, experiment):
    plain = optuna.create_study(storage=store.storage, study_name="plain")
    plain.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)

    with pytest.raises(UnusableConfiguration, match="not made by mnist-search"):
        Ledger.open_or_create(store, "plain", experiment, target=5)
    with pytest.raises(NotFound, match="no study 'missing'"):
        Ledger.open(store, "missing")


def test_a_study_whose_making_was_cut_short_is_made_again(store, experiment):
    optuna.create_study(storage=store.storage, study_name="s", direction="maximize")

    assert run_to_the_end(Ledger.open_or_create(store, "s", experiment, target=2)) == 2


def test_interrupted_or_not_a_study_makes_the_same_proposals(tmp_path, experiment):
    def proposals(name, interrupt):
        store = Store.open_or_create(f"sqlite:///{tmp_path}/{name}.db")
        ledger = Ledger.open_or_create(store, "s", experiment, target=15)
        while claim := ledger.claim():
            if interrupt and claim.trial.number in {2, 11, 12} and not claim.stale_run_id:
                ledger.remember_mirror(claim.trial_id, "seen")
                ledger.put_back(claim)
                ledger = Ledger.open(Store.open(store.url, write=True), "s")
                continue
            settle(ledger, claim, accuracy=0.5 + claim.trial.params["depth"] / 100)
        return [trial.params for trial in ledger.study.trials]

    assert proposals("straight", interrupt=False) == proposals("interrupted", interrupt=True)


def test_another_seed_makes_other_proposals(tmp_path, experiment):
    first = Ledger.open_or_create(Store.open_or_create(f"sqlite:///{tmp_path}/a.db"), "s", experiment, 1)
    other = Ledger.open_or_create(
        Store.open_or_create(f"sqlite:///{tmp_path}/b.db"), "s", replace(experiment, seed=1), 1
    )

    assert first.claim().trial.params != other.claim().trial.params


def _work(url: str, die: bool) -> None:
    ledger = Ledger.open(Store.open(url, write=True), "s")
    while claim := ledger.claim():
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
        settle(ledger, claim)


def _spawn(*jobs):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=job) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def test_four_processes_share_a_study_exactly(store, experiment):
    ledger = Ledger.open_or_create(store, "s", experiment, target=20)
    for depth in (3, 4, 5):
        ledger.study.enqueue_trial({"depth": depth})

    codes = _spawn(*[(store.url, False)] * 4)

    facts = Ledger.open(Store.open(store.url), "s").facts()
    assert codes == [0] * 4
    assert [trial.number for trial in facts.trials] == list(range(20))
    assert {trial.state for trial in facts.trials} == {"COMPLETE"}


def test_processes_that_are_killed_lose_nothing_and_double_nothing(store, experiment):
    Ledger.open_or_create(store, "s", experiment, target=8)

    codes = _spawn((store.url, True), (store.url, True))
    _spawn((store.url, False), (store.url, False))

    facts = Ledger.open(Store.open(store.url), "s").facts()
    assert codes == [-signal.SIGKILL] * 2
    assert [trial.state for trial in facts.trials] == ["COMPLETE"] * 8
    assert sum(trial.deaths for trial in facts.trials) == 2


def test_a_busy_database_is_waited_for(store, ledger):
    """Another writer holds the lock for longer than Optuna would wait."""
    import sqlite3
    import threading

    blocker = sqlite3.connect(store.engine.url.database, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    threading.Timer(7, lambda: blocker.execute("COMMIT")).start()
    started = time.monotonic()

    claim = ledger.claim()

    assert claim is not None
    assert time.monotonic() - started > 5
    blocker.close()


def test_a_tight_budget_still_fills_every_place(store):
    """Fewer than one random configuration in a thousand fits."""
    space = SearchSpace(depth=(3, 7), width=(2, 30), epochs=1)
    tight = Experiment(budget=200, space=space, fill=False, sampler="random", pruner="none")
    assert tight.parameter_budget.feasible_share()[0] < 0.001
    ledger = Ledger.open_or_create(store, "tight", tight, target=5)

    run_to_the_end(ledger)

    counts = [tight.parameter_budget.count(t.genes) for t in ledger.facts().trials]
    assert len(counts) == 5
    assert max(counts) <= 200
    assert ledger.facts().rejected == 500
