"""Runs of killed commands are ended by the next command that writes to MLflow."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from support import MLFLOW_WARNINGS
from tracked_trials import final_task, runs_in, start, train, train_final

from mnist_search.storage.finals import FinalsStudy, finals_uid, name_of_finals
from mnist_search.storage.tables import leases
from mnist_search.tracking.killed import end_runs_of_killed

pytestmark = MLFLOW_WARNINGS


@pytest.fixture
def end_runs(store, config, mnist_dir):
    def call(name="s"):
        end_runs_of_killed(store, name, config, mnist_dir, pytest.fail)

    return call


def kill(store):
    """Let the workers of all running trials end without a release."""
    with store.engine.begin() as connection:
        connection.execute(sa.delete(leases))


def test_runs_of_a_killed_search_are_ended(search_study, store, make_sync, client, end_runs):
    train(search_study)
    start(search_study, epochs=1)
    make_sync().sync()
    kill(store)

    end_runs()

    assert [run.info.status for run in runs_in(client)] == ["FINISHED"]
    assert runs_in(client, "study")[0].info.status == "KILLED"
    assert search_study.record().trials[1].state == "WAITING"


def test_runs_of_killed_finals_are_ended(search_study, store, make_sync, client, end_runs):
    finals = FinalsStudy.open_or_create(store, name_of_finals("s"), finals_uid(search_study.record().uid))
    finals.add([final_task()])
    finals.queue.claim().trial.set_user_attr("device", "cpu")
    make_sync("s.finals").sync()
    assert [run.info.status for run in runs_in(client, "final")] == ["RUNNING"]
    kill(store)

    end_runs("s.finals")

    assert runs_in(client, "final") == []
    assert [trial.state for trial in finals.record().trials] == ["WAITING"]


def test_finals_that_mlflow_lacks_are_written(search_study, store, make_sync, client, end_runs):
    train(search_study)
    make_sync().sync("FINISHED")
    finals = FinalsStudy.open_or_create(store, name_of_finals("s"), finals_uid(search_study.record().uid))
    finals.add([final_task()])
    train_final(finals)

    end_runs("s.finals")

    assert [run.info.status for run in runs_in(client, "final")] == ["FINISHED"]
    assert not make_sync("s.finals").is_outdated()


def test_running_search_is_left_alone(search_study, make_sync, client, end_runs):
    start(search_study, epochs=1)
    make_sync().sync()

    end_runs()

    assert [run.info.status for run in runs_in(client) + runs_in(client, "study")] == ["RUNNING"] * 2
    assert search_study.record().trials[0].state == "RUNNING"


def test_study_that_another_process_writes_is_left_alone(
    search_study, store, study, make_sync, client, end_runs
):
    start(search_study, epochs=1)
    make_sync().sync()
    kill(store)

    with study.lock(0):
        end_runs()

    assert [run.info.status for run in runs_in(client)] == ["RUNNING"]


@pytest.mark.usefixtures("search_study")
def test_study_without_finals_needs_nothing(client, end_runs):
    end_runs("s.finals")

    assert client.search_experiments(filter_string="name = 'experiment'") == []
