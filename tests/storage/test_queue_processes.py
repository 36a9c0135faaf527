"""Trial queue with several processes on one store: no trial is lost, trained twice or beyond n_trials."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from optuna.trial import TrialState, create_trial

from mnist_search.records import EpochMetrics
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store
from mnist_search.storage.leases import ProcessIdentity


def _work(url: str, crash: bool, supervisor: ProcessIdentity) -> None:
    search_study = SearchStudy.open(Store.open(url, write=True), "s", supervisor)
    while claim := search_study.claim():
        if crash:
            os.kill(os.getpid(), signal.SIGKILL)
        claim.trial.set_user_attr("num_params", 1000)
        search_study.queue.report(claim, EpochMetrics(epoch=1, val_accuracy=0.9, val_loss=0.1))
        search_study.queue.finish(claim, TrialState.COMPLETE, [0.9], safetensors=b"weights", keep=2)


def _claim_added(url: str, folder: Path, _supervisor: ProcessIdentity) -> None:
    queue = SearchStudy.open(Store.open(url, write=True), "s").queue
    with (folder / f"{os.getpid()}.claims").open("w") as file:
        while claim := queue.claim():
            file.write(f"{claim.trial.number} {claim.owner}\n")
            queue.finish(claim, TrialState.COMPLETE, [0.9], keep=None)


def _spawn(*arguments, target=_work):
    context = multiprocessing.get_context("spawn")
    supervisor = ProcessIdentity.current()
    processes = [context.Process(target=target, args=(*each, supervisor)) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def test_four_processes_train_exactly_n_trials(store, study_config):
    search_study = SearchStudy.open_or_create(store, "s", study_config, n_trials=20)
    for depth in (3, 4, 5):
        search_study.study.enqueue_trial({"depth": depth})

    codes = _spawn(*[(store.url, False)] * 4)

    record = SearchStudy.open(Store.open(store.url), "s").record()
    assert codes == [0] * 4
    assert [trial.number for trial in record.trials] == list(range(20))
    assert {trial.state for trial in record.trials} == {"COMPLETE"}


def _claim_150_queued_trials(folder, study_config):
    folder.mkdir()
    store = Store.open_or_create(f"sqlite:///{folder}/store.db")
    search_study = SearchStudy.open_or_create(store, "s", study_config, n_trials=150)
    search_study.study.add_trials([create_trial(state=TrialState.WAITING) for _ in range(150)])

    codes = _spawn(*[(store.url, folder)] * 4, target=_claim_added)

    claims = [line.split() for path in folder.glob("*.claims") for line in path.read_text().splitlines()]
    record = search_study.record()
    assert codes == [0] * 4
    assert sorted(int(number) for number, _ in claims) == list(range(150))
    assert {int(number): owner for number, owner in claims} == {t.number: t.attempt for t in record.trials}
    assert {(trial.state, trial.crashes) for trial in record.trials} == {("COMPLETE", 0)}


def test_four_processes_claim_every_queued_trial_once(tmp_path, study_config):
    _claim_150_queued_trials(tmp_path / "one", study_config)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_four_processes_claim_every_queued_trial_once_20_times(tmp_path, study_config):
    for repetition in range(20):
        _claim_150_queued_trials(tmp_path / f"{repetition}", study_config)


def test_killed_processes_lose_no_trial_and_duplicate_none(store, study_config):
    SearchStudy.open_or_create(store, "s", study_config, n_trials=8)

    codes = _spawn((store.url, True), (store.url, True))
    _spawn((store.url, False), (store.url, False))

    record = SearchStudy.open(Store.open(store.url), "s").record()
    assert codes == [-signal.SIGKILL] * 2
    assert [trial.state for trial in record.trials] == ["COMPLETE"] * 8
    assert sum(trial.crashes for trial in record.trials) == 2
