"""StudySync makes a real MLflow agree with the store: runs of search trials and the parent run."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import matplotlib as mpl
import pytest
import sqlalchemy as sa
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from optuna.trial import TrialState
from support import MLFLOW_WARNINGS
from tracked_trials import artifacts, contents, epoch_metrics, models_in, points, runs_in, start, train

from mnist_search.data import mnist
from mnist_search.search.study import SearchStudy
from mnist_search.tracking import run_info, runs
from mnist_search.tracking.setup import open_tracking

pytestmark = [MLFLOW_WARNINGS, pytest.mark.usefixtures("search_study")]


@pytest.fixture
def sync(make_sync):
    return make_sync()


def test_run_has_tags_params_and_layer_table(search_study, sync, client):
    claim = train(search_study)

    sync.sync()

    (run,), (parent,) = runs_in(client), runs_in(client, "study")
    tags, trial = run.data.tags, search_study.record().trials[0]
    assert (tags["study.uid"], tags["trial"], tags["attempt"]) == (
        search_study.record().uid,
        "0",
        claim.owner,
    )
    assert tags["mlflow.parentRunId"] == parent.info.run_id
    assert (tags["study"], tags["state"], tags["seed"]) == ("s", "COMPLETE", "0")
    assert tags["version"]
    assert run.data.params["budget"] == "1500"
    assert run.data.metrics["num_params"] == trial.num_params
    assert artifacts(client, run.info.run_id) == {"layers.txt"}
    assert (trial.run_id, sync.run_of(trial)) == (run.info.run_id, run.info.run_id)


@pytest.mark.parametrize(
    ("state", "status"), [("COMPLETE", "FINISHED"), ("PRUNED", "KILLED"), ("FAIL", "FAILED")]
)
def test_run_status_follows_the_trial_state(search_study, sync, client, state, status):
    train(search_study, state, reason="why")

    sync.sync()

    (run,) = runs_in(client)
    assert run.info.status == status
    assert (run.data.tags["state"], run.data.tags["reason"]) == (state, "why")


def test_run_written_an_hour_later_has_the_start_and_end_of_the_trial(search_study, store, sync, client):
    train(search_study)
    shift_an_hour_back(store)
    trial = search_study.record().trials[0]

    sync.sync()

    (run,) = runs_in(client)
    assert run.info.start_time == pytest.approx(1000 * trial.started.timestamp(), abs=1000)
    assert run.info.end_time == pytest.approx(1000 * trial.completed.timestamp(), abs=1000)
    history = client.get_metric_history(run.info.run_id, "val_accuracy")
    assert [point.timestamp for point in history] == [epoch_metrics(epoch).timestamp for epoch in (1, 2)]


def shift_an_hour_back(store):
    columns = ("datetime_start", "datetime_complete")
    trials = sa.table("trials", *(sa.column(name, sa.DateTime) for name in columns))
    with store.engine.begin() as connection:
        moments = connection.execute(sa.select(*trials.c)).one()
        shifted = {name: getattr(moments, name) - timedelta(hours=1) for name in columns}
        connection.execute(sa.update(trials).values(shifted))


def test_epochs_become_one_point_per_metric_over_repeated_passes(search_study, make_sync, client):
    sync = make_sync()
    claim = start(search_study, epochs=1)
    sync.sync()
    (run,) = runs_in(client)
    assert (run.info.status, points(client, run.info.run_id, "val_accuracy")) == ("RUNNING", [(1, 0.5)])
    search_study.queue.report(claim, epoch_metrics(2))

    for process in (sync, make_sync(), make_sync()):
        process.sync()

    for name in epoch_metrics(1).to_dict().keys() - {"epoch", "timestamp"}:
        expected = [(epoch, getattr(epoch_metrics(epoch), name)) for epoch in (1, 2)]
        metric = "epoch_seconds" if name == "seconds" else name
        assert points(client, run.info.run_id, metric) == expected


def test_infinite_loss_is_logged_once(search_study, make_sync, client):
    claim = start(search_study)
    values = epoch_metrics(1).to_dict() | {"val_loss": float("inf"), "train_loss": float("nan")}
    search_study.queue.report(claim, type(epoch_metrics(1))(**values))

    make_sync().sync()
    make_sync().sync()

    (run,) = runs_in(client)
    assert len(points(client, run.info.run_id, "val_loss")) == 1
    assert "train_loss" not in run.data.metrics


def test_trial_has_no_run_before_its_training_starts(search_study, sync, client):
    search_study.claim()

    sync.sync()

    assert runs_in(client) == []


def test_second_process_adopts_everything_and_writes_nothing_twice(search_study, make_sync, client, messages):
    train(search_study, keep=1)
    for state in ("PRUNED", "FAIL"):
        train(search_study, state, keep=1)
    start(search_study, epochs=1)
    make_sync().sync("FINISHED")
    before = contents(client)

    make_sync().sync("FINISHED")

    assert contents(client) == before
    assert len(before[0]) == 5
    assert len(before[1]) == 1
    assert messages == []


@pytest.mark.parametrize("is_new_process", [False, True])
def test_run_of_an_older_attempt_is_deleted(search_study, make_sync, client, is_new_process):
    sync = make_sync()
    old = start(search_study, epochs=2)
    sync.sync()
    search_study.queue.release(old)
    new = start(search_study, epochs=1)

    (make_sync() if is_new_process else sync).sync()

    (run,) = runs_in(client)
    assert run.data.tags["attempt"] == new.owner
    assert points(client, run.info.run_id, "val_accuracy") == [(1, 0.5)]
    (deleted,) = runs_in(client, view=ViewType.DELETED_ONLY)
    assert deleted.data.tags["attempt"] == old.owner


@pytest.mark.parametrize("is_new_process", [False, True])
def test_run_of_a_released_trial_is_deleted(search_study, make_sync, client, is_new_process):
    sync = make_sync()
    claim = start(search_study, epochs=1)
    sync.sync()
    search_study.queue.release(claim)

    (make_sync() if is_new_process else sync).sync()

    assert runs_in(client) == []


def create_run(search_study, study, config):
    """Create the run of the first trial and nothing in it, as a process that is killed then; its id."""
    record = search_study.record()
    info = run_info.run_info(record, record.trials[0])
    return runs.create_run(open_tracking(config, study), record.uid, record.trials[0], info)


@pytest.mark.parametrize("n_runs", [1, 2])
def test_runs_without_content_become_one_complete_run(search_study, study, make_sync, config, client, n_runs):
    train(search_study)
    created = [create_run(search_study, study, config) for _ in range(n_runs)]

    make_sync().sync()

    (run,) = runs_in(client)
    assert run.info.run_id in created
    assert run.info.status == "FINISHED"
    assert run.data.params["budget"] == "1500"
    assert len(points(client, run.info.run_id, "val_accuracy")) == 2
    assert artifacts(client, run.info.run_id) == {"layers.txt"}


def test_second_run_of_an_attempt_is_deleted_and_the_complete_one_kept(
    search_study, study, make_sync, config, client
):
    train(search_study)
    make_sync().sync()
    (kept,) = runs_in(client)
    create_run(search_study, study, config)

    make_sync().sync()

    assert [run.info.run_id for run in runs_in(client)] == [kept.info.run_id]
    assert len(points(client, kept.info.run_id, "val_accuracy")) == 2


def test_stored_param_of_an_interrupted_run_is_kept(search_study, study, make_sync, config, client):
    train(search_study)
    run_id = create_run(search_study, study, config)
    client.log_param(run_id, "budget", "another")

    make_sync().sync()

    params = client.get_run(run_id).data.params
    assert params["budget"] == "another"
    assert len(params) > 5


def test_run_deleted_in_the_ui_is_restored_with_its_points(search_study, make_sync, client):
    train(search_study)
    make_sync().sync()
    before = contents(client)
    client.delete_run(runs_in(client)[0].info.run_id)

    make_sync().sync()

    assert contents(client) == before


def test_run_deleted_in_the_ui_while_its_trial_runs_is_restored(search_study, sync, client):
    claim = start(search_study, epochs=1)
    sync.sync()
    run_id = runs_in(client)[0].info.run_id
    client.delete_run(run_id)
    search_study.queue.report(claim, epoch_metrics(2))

    with pytest.raises(MlflowException):
        sync.sync()
    sync.reset()
    sync.sync()

    assert [run.info.run_id for run in runs_in(client)] == [run_id]
    assert len(points(client, run_id, "val_accuracy")) == 2


def test_parent_run_deleted_in_the_ui_is_restored(search_study, make_sync, client):
    train(search_study)
    make_sync().sync()
    before = contents(client)
    client.delete_run(runs_in(client, "study")[0].info.run_id)

    make_sync().sync()

    assert contents(client) == before


def test_deleted_experiment_is_restored(search_study, make_sync, client):
    old = start(search_study, epochs=1)
    make_sync().sync()
    search_study.queue.release(old)
    train(search_study)
    make_sync().sync()
    before = contents(client)
    client.delete_experiment(runs_in(client)[0].info.experiment_id)

    make_sync().sync()

    assert contents(client) == before


def test_runs_in_another_database_at_the_same_uri_are_written_again(
    search_study, make_sync, client, empty_database, tmp_path
):
    train(search_study)
    make_sync().sync()
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())

    make_sync().sync()

    assert [run.info.status for run in runs_in(client)] == ["FINISHED"]
    assert len(runs_in(client, "study")) == 1


def test_unchanged_study_is_not_written_again(search_study, sync, client):
    claim = train(search_study)
    sync.sync()
    (run,) = runs_in(client)
    client.set_tag(run.info.run_id, "state", "edited")
    client.set_tag(run.data.tags["mlflow.parentRunId"], "trials", "edited")

    sync.sync()

    assert client.get_run(run.info.run_id).data.tags["state"] == "edited"
    assert runs_in(client, "study")[0].data.tags["trials"] == "edited"
    assert claim.trial.number == 0


def test_parent_run_has_the_summary_of_the_study(search_study, sync, client):
    train(search_study, accuracy=0.93)
    train(search_study, "PRUNED")

    sync.sync("KILLED")

    (parent,) = runs_in(client, "study")
    note = parent.data.tags["mlflow.note.content"]
    trial = search_study.record().trials[0]
    assert "2 of 10 trials done (1 complete, 1 pruned, 0 failed)" in note
    assert f"| 1 | 0 | 93.00 % | {trial.num_params:,} |" in note
    assert parent.data.metrics["best_val_accuracy"] == 0.93
    assert (parent.data.tags["trials"], parent.info.status) == ("2/10", "KILLED")
    assert artifacts(client, parent.info.run_id) == {"leaderboard.csv"}


def test_parent_run_has_one_point_per_finished_trial(search_study, make_sync, client):
    for accuracy in (0.5, 0.6):
        train(search_study, accuracy=accuracy)
        make_sync().sync()
        start(search_study, epochs=2)
        make_sync().sync()

    (parent,) = runs_in(client, "study")
    assert points(client, parent.info.run_id, "trials_done") == [(1, 1), (2, 2)]
    assert points(client, parent.info.run_id, "best_val_accuracy") == [(1, 0.5), (2, 0.6)]
    assert points(client, parent.info.run_id, "trained_epochs") == [(1, 2), (2, 4)]


def test_series_of_a_study_are_complete_after_an_outage_and_have_the_times_of_its_trials(
    search_study, sync, client
):
    train(search_study, "PRUNED")
    for accuracy in (0.7, 0.6):
        train(search_study, accuracy=accuracy)
    ends = [round(1000 * trial.completed.timestamp()) for trial in search_study.record().trials]

    sync.sync()

    (parent,) = runs_in(client, "study")
    assert points(client, parent.info.run_id, "best_val_accuracy") == [(2, 0.7), (3, 0.7)]
    assert points(client, parent.info.run_id, "trained_epochs") == [(1, 2), (2, 4), (3, 6)]
    history = client.get_metric_history(parent.info.run_id, "trials_done")
    assert [point.timestamp for point in history] == pytest.approx(ends, abs=1)


def test_series_that_an_older_version_began_are_continued_without_a_second_point(
    search_study, study, make_sync, config, client
):
    for _ in range(3):
        train(search_study)
    parent = open_tracking(config, study).parent_run_id
    client.log_metric(parent, "trials_done", 2, timestamp=1, step=2)

    make_sync().sync()

    assert sorted(points(client, parent, "trials_done")) == [(1, 1), (2, 2), (3, 3)]
    assert points(client, parent, "trained_epochs") == [(1, 2), (2, 4), (3, 6)]


def test_run_has_data_set_device_and_software_and_no_fact_twice(search_study, sync, client):
    train(search_study)

    sync.sync()

    (run,) = runs_in(client)
    (data,) = run.inputs.dataset_inputs
    sums = "".join(mnist.SHA256[name] for name in mnist.TRAIN_FILES)
    assert data.dataset.digest == sha256(sums.encode()).hexdigest()[:16]
    assert data.tags[0].value == "training"
    software = search_study.record().trials[0].software
    assert (run.data.tags["torch"], run.data.tags["device"]) == (software["torch"], "cpu")
    assert run.data.tags.get("mlflow.source.git.commit") == software.get("commit")
    assert run.data.metrics["epochs"] == 2
    assert not run.data.params.keys() & run.data.metrics.keys()
    assert "trial.state" not in run.data.tags


def test_run_of_an_older_version_loses_its_second_state_and_gets_the_name_of_the_study(
    search_study, make_sync, client
):
    train(search_study)
    make_sync().sync()
    (run,) = runs_in(client)
    client.set_tag(run.info.run_id, "trial.state", "COMPLETE")
    client.set_tag(run.info.run_id, "study", "another")

    make_sync().sync()

    tags = client.get_run(run.info.run_id).data.tags
    assert "trial.state" not in tags
    assert tags["study"] == "s"


def test_runs_of_a_screened_study_have_the_rung_at_which_they_ended(store, study_config, make_sync, client):
    space = replace(study_config.space, epochs=3)
    config = replace(study_config, pruner="screening", space=space)
    study = SearchStudy.open_or_create(store, "screened", config, 3)
    for epochs, state in ((1, TrialState.PRUNED), (3, TrialState.COMPLETE)):
        claim = start(study, epochs=epochs)
        study.queue.finish(claim, state, (0.5,) if state == TrialState.COMPLETE else None)
    start(study, epochs=1)

    make_sync("screened").sync()

    assert [run.data.tags.get("rung") for run in runs_in(client)] == ["1/3", "3/3", None]
    assert [study.record().row(trial)["rung"] for trial in study.record().trials] == ["1/3", "3/3", "1/3"]


def test_runs_that_a_killed_command_left_running_are_put_right(search_study, make_sync, client):
    finished, killed = start(search_study, epochs=2), start(search_study, epochs=1)
    make_sync().sync()
    assert [run.info.status for run in runs_in(client)] == ["RUNNING"] * 2
    search_study.queue.finish(finished, TrialState.COMPLETE, (0.5,))
    search_study.queue.release(killed)

    make_sync().sync("FINISHED")

    assert [run.info.status for run in runs_in(client)] == ["FINISHED"]
    assert runs_in(client, "study")[0].info.status == "FINISHED"


def test_figure_that_cannot_be_drawn_does_not_keep_the_run_open(
    search_study, sync, client, messages, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))  # no LaTeX
    train(search_study, keep=1)

    with mpl.rc_context({"text.usetex": True}):
        sync.sync()

    (run,) = runs_in(client)
    assert run.info.status == "FINISHED"
    assert artifacts(client, run.info.run_id) == {"layers.txt"}
    assert len(messages) == 1
    assert "s-trial-0" in messages[0]


def test_artifacts_that_cannot_be_stored_hold_nothing_back_and_are_logged_later(
    search_study, make_sync, client, messages, tmp_path
):
    (tmp_path / "mlartifacts").write_text("not a folder")
    for _ in range(2):
        train(search_study, keep=2)
    sync = make_sync()

    sync.sync()
    sync.reset()
    sync.sync("FINISHED")

    for run in runs_in(client):
        assert (run.info.status, run.data.params["budget"]) == ("FINISHED", "1500")
        assert len(points(client, run.info.run_id, "val_accuracy")) == 2
    (parent,) = runs_in(client, "study")
    assert (parent.info.status, parent.data.tags["trials"]) == ("FINISHED", "2/10")
    assert len(messages) == 1
    assert "layers.txt" in messages[0]

    (tmp_path / "mlartifacts").unlink()
    make_sync().sync("FINISHED")

    for run in runs_in(client):
        assert artifacts(client, run.info.run_id) == {"layers.txt", "confusion_matrix.png"}
        assert run.data.tags["artifacts"] == "complete"
    assert artifacts(client, parent.info.run_id) == {"leaderboard.csv"}
    assert len(models_in(client)) == 2


def test_without_images_everything_is_written_but_the_models(
    search_study, make_sync, client, messages, tmp_path
):
    for _ in range(2):
        train(search_study, keep=2)
    sync = make_sync(data_dir=tmp_path / "none")

    sync.sync()
    sync.reset()
    sync.sync("FINISHED")

    assert [run.info.status for run in runs_in(client)] == ["FINISHED"] * 2
    assert runs_in(client, "study")[0].info.status == "FINISHED"
    assert models_in(client) == []
    assert len(set(messages)) == 1
