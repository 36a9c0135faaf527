"""``run`` and ``resume`` as a user runs them: real processes, MNIST, stores and signals."""

from __future__ import annotations

import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from commands import SMALL, WORKER, children, is_training, kill_group, wait_for, weights_of
from optuna.trial import TrialState
from soundness import assert_sound, open_study, runs_of

from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow in this process


@pytest.fixture(autouse=True)
def _data_and_database(mnist_dir, empty_database, tmp_path, monkeypatch):
    monkeypatch.setenv("MNIST_SEARCH_DATA", str(mnist_dir))
    shutil.copy(empty_database, tmp_path)


@pytest.mark.timeout(300)
def test_run_trains_n_trials_within_the_budget_and_keeps_models(command, tmp_path):
    import mlflow

    done = command(*SMALL, "--trials", "3", "--jobs", "2", "--keep-models", "1")

    assert done.code == 0, done.err
    assert "trials done     3" in done.out
    assert "\x1b" not in done.out + done.err
    assert re.search(r"trial +\d+ +complete +\d\d\.\d\d %", done.err)
    record = assert_sound(tmp_path, trials=3)
    runs, parent, client = runs_of(tmp_path)
    assert {r.data.tags["mlflow.parentRunId"] for r in runs.values()} == {parent.info.run_id}
    assert (parent.info.status, parent.data.tags["trials"]) == ("FINISHED", "3/3")
    assert max(len(r.data.params) for r in runs.values()) <= 25
    kept = {t.number: t for t in record.trials if t.model_id}
    assert set(kept) == {t.number for t in record.ranked[:1]}
    assert len(client.search_logged_models([parent.info.experiment_id])) == 1
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    for trial in kept.values():
        module = mlflow.pytorch.load_model(f"models:/{trial.model_id}")
        assert sum(p.numel() for p in module.parameters()) == trial.num_params <= 1500

    again = command(*SMALL, "--trials", "3", "--jobs", "2", "--keep-models", "1")
    assert again.code == 0
    assert_sound(tmp_path, trials=3)

    more = command("resume", "budget-1500", "--trials", "+1", "--device", "cpu")
    assert more.code == 0, more.err
    assert_sound(tmp_path, trials=4)


def test_run_opens_no_test_file(command, tmp_path, mnist_dir):
    folder = tmp_path / "train-only"
    folder.mkdir()
    for path in mnist_dir.glob("train-*"):
        (folder / path.name).symlink_to(path)
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (folder / name).mkdir()  # opening it would fail
        (folder / f"{name}.gz").mkdir()

    done = command(*SMALL, "--trials", "1", "--no-mlflow", MNIST_SEARCH_DATA=str(folder))

    assert done.code == 0, done.err
    assert command("data", MNIST_SEARCH_DATA=str(folder)).code == 69


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.soak),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.soak),
    ],
)
def test_signal_stops_a_run_and_the_printed_command_continues_it(start, command, tmp_path, number, code):
    arguments = [*SMALL, "--trials", "3", "--jobs", "1", "--epochs", "3"]
    process = start(*arguments)
    wait_for(tmp_path, is_training)

    os.killpg(process.pid, number)  # a terminal signals the whole group
    out, err = process.communicate(timeout=30)

    assert process.returncode == code, err
    assert f"continue with: mnist-search {' '.join(arguments)}" in err
    assert "trials done" in out
    states = {t.state for t in open_study(tmp_path).record().trials}
    assert "RUNNING" not in states

    assert command(*arguments).code == 0
    assert_sound(tmp_path, trials=3)


def test_second_signal_kills_the_workers(start, tmp_path):
    process = start(*SMALL, "--trials", "3", "--jobs", "1", "--epochs", "50")
    wait_for(tmp_path, is_training)

    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=30)

    assert process.returncode == 130
    assert all(t.state == "WAITING" for t in open_study(tmp_path).record().trials)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_study_has_bit_equal_weights(start, command, tmp_path):
    """One worker, killed with its process group at three random times."""
    arguments = [*SMALL, "--trials", "4", "--jobs", "1", "--seed", "7"]
    (tmp_path / "uninterrupted").mkdir()
    at = ["--storage", f"sqlite:///{tmp_path}/uninterrupted/mnist-search.db", "--no-mlflow"]
    assert command(*arguments, *at).code == 0
    delays = random.Random(0)
    for done in (0, 1, 2):
        process = start(*arguments)
        wait_for(tmp_path, lambda record, done=done: len(record.done) >= done and len(record.trials) > done)
        time.sleep(delays.random())
        kill_group(process)

    last = command(*arguments)

    assert last.code == 0, last.err
    record = assert_sound(tmp_path, trials=4)
    uninterrupted = open_study(tmp_path / "uninterrupted").record()
    assert [t.params for t in record.trials] == [t.params for t in uninterrupted.trials]
    assert [t.val_accuracy for t in record.trials] == [t.val_accuracy for t in uninterrupted.trials]
    assert weights_of(tmp_path) == weights_of(tmp_path / "uninterrupted")


@pytest.mark.slow
def test_killed_worker_is_replaced(start, tmp_path):
    process = start(*SMALL, "--trials", "2", "--jobs", "1")
    wait_for(tmp_path, is_training)
    (worker,) = children(process, WORKER)

    worker.kill()
    _, err = process.communicate(timeout=90)

    assert process.returncode == 0, err
    assert "a worker crashed (exit code -9); starting another" in err
    record = assert_sound(tmp_path, trials=2)
    assert sum(trial.crashes for trial in record.trials) == 1


@pytest.mark.soak
def test_terminated_worker_is_replaced_without_a_crash_of_its_trial(start, tmp_path):
    process = start(*SMALL, "--trials", "2", "--jobs", "1", "--no-mlflow", "--epochs", "6")
    wait_for(tmp_path, is_training)
    (worker,) = children(process, WORKER)

    worker.terminate()
    _, err = process.communicate(timeout=90)

    assert process.returncode == 0, err
    record = open_study(tmp_path).record()
    assert [t.state for t in record.trials] == ["COMPLETE"] * 2
    assert sum(t.crashes for t in record.trials) == 0


@pytest.mark.soak
def test_full_disk_stops_the_run_without_losing_trials(command, tmp_path):
    import resource

    assert command(*SMALL, "--trials", "1", "--no-mlflow", "--jobs", "1").code == 0
    size = (tmp_path / "mnist-search.db").stat().st_size
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {resource.RLIM_INFINITY}))"
    limited_main = f"{limit}; from mnist_search.cli.app import main; main()"

    full = subprocess.run(
        [sys.executable, "-c", limited_main, *SMALL, "--trials", "9", "--no-mlflow", "--jobs", "1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip

    assert full.returncode == 74, full.stderr
    assert "free disk space" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    assert command(*SMALL, "--trials", "9", "--no-mlflow").code == 0
    assert [t.number for t in open_study(tmp_path).record().done] == list(range(9))


def test_workers_stop_when_their_supervisor_is_killed(start, tmp_path):
    process = start(*SMALL, "--trials", "5", "--jobs", "2", "--epochs", "50", "--no-mlflow")
    wait_for(
        tmp_path, lambda record: sum(t.state == "RUNNING" and bool(t.num_params) for t in record.trials) == 2
    )
    workers = children(process, WORKER)

    process.kill()

    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    assert {t.state for t in open_study(tmp_path).record().trials} == {"WAITING"}


@pytest.mark.slow
def test_timeout_before_any_finished_trial_is_exit_code_3(command, tmp_path):
    done = command(
        *SMALL, "--trials", "3", "--epochs", "10000", "--timeout", "12s", "--no-mlflow", "--jobs", "1"
    )

    assert done.code == 3, done.err
    assert "the timeout of 12 s was reached before any trial finished" in done.err
    assert all(t.state == "WAITING" for t in open_study(tmp_path).record().trials)


@pytest.mark.slow
def test_stop_conditions_and_trial_timeout_apply(command, tmp_path):
    done = command(
        *SMALL, "--trials", "2", "--epochs", "10000", "--trial-timeout", "2s", "--no-mlflow", "--jobs", "1",
    )  # fmt: skip

    states = [(t.state, t.reason) for t in open_study(tmp_path).record().done]
    assert done.code == 0, done.err
    assert states == [("PRUNED", "trial timeout of 2 s")] * 2

    reached = command(
        *SMALL, "--study", "easy", "--trials", "9", "--target-accuracy", "0.05", "--no-mlflow", "--jobs", "1"
    )
    assert reached.code == 0
    assert "reached the target accuracy of 0.0500" in reached.err
    assert len(open_study(tmp_path, "easy").record().done) == 1


@pytest.mark.slow  # tests/execution/test_worker.py has a fast one
def test_patience_stops_a_study(command, tmp_path):
    done = command(*SMALL, "--epochs", "1", "--trials", "30", "--patience", "1", "--no-mlflow", "--jobs", "1")

    record = open_study(tmp_path).record()
    assert done.code == 0, done.err
    assert f"since trial {record.best.number}" in done.err
    assert record.best.number == len(record.trials) - 2


@pytest.mark.slow
def test_enqueued_trial_over_the_budget_is_not_trained(command, tmp_path):
    assert command(*SMALL, "--trials", "1", "--no-mlflow").code == 0
    store = Store.open(f"sqlite:///{tmp_path}/mnist-search.db", write=True)
    search_study = SearchStudy.open(store, "budget-1500")
    widths = dict.fromkeys(search_study.config.space.width_params, 13)
    search_study.study.enqueue_trial({"depth": 7, **widths})

    done = command("resume", "budget-1500", "--trials", "2", "--no-mlflow", "--device", "cpu")

    assert done.code == 0, done.err
    record = search_study.record()
    assert len(record.done) == 2
    (refused,) = (t for t in record.trials if t.is_over_budget)
    assert refused.epochs == 0
    assert record.best.num_params <= 1500
    assert search_study.study.trials[refused.number].state == TrialState.PRUNED


@pytest.mark.soak
def test_unavailable_tracker_stops_nothing_and_is_synced_later(command, tmp_path):
    unreachable = ["--tracking-uri", "http://127.0.0.1:9"]

    done = command(*SMALL, "--trials", "1", *unreachable, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.code == 0, done.err
    assert "training continues" in done.err

    assert command(*SMALL, "--trials", "1").code == 0
    assert_sound(tmp_path, trials=1)


@pytest.mark.soak
def test_missing_drivers_of_trackers_stop_neither_of_two_commands(start, tmp_path):
    arguments = [*SMALL, "--trials", "2", "--jobs", "1", "--tracking-uri"]

    commands = [start(*arguments, f"postgresql+nodriver{number}://x") for number in (1, 2)]

    messages = [process.communicate(timeout=100)[1] for process in commands]
    assert [process.returncode for process in commands] == [0, 0], messages
    # The sync process of one command waits for that of the other.
    assert 1 in {err.count("cannot write to MLflow") for err in messages}
    assert "Traceback" not in "".join(messages)
    assert_sound(tmp_path, trials=2, tracked=False)


def test_run_shows_a_live_table_on_a_terminal(tmp_path):
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_search", *SMALL, "--trials", "1", "--no-mlflow"],
        cwd=tmp_path, stdin=terminal, stdout=subprocess.PIPE, stderr=terminal,
        env={k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(terminal)
    screen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        screen += part
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    text = screen.decode()
    words = "trial", "parameters of 1,500", "epoch", "validation", "images/s", "/2", "budget-1500: 0 of 1"
    assert [word for word in words if word not in text] == []
    assert out.decode().startswith("study")


@pytest.mark.slow
def test_verbose_logs_the_queue_and_precision_is_recorded(command, tmp_path):
    done = command("--verbose", *SMALL, "--trials", "1", "--no-mlflow", "--jobs", "1", "--precision", "fp32")

    assert done.code == 0, done.err
    assert ", fp32, " in open_study(tmp_path).record().trials[0].device
    assert "mnist_search.storage.queue: claimed trial 0" in done.err
    assert "mnist_search.storage.queue: finished trial 0: COMPLETE" in done.err


def test_nohup_makes_a_run_ignore_sighup(tmp_path):
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "mnist_search", *SMALL, "--trials", "1", "--jobs", "1", "--no-mlflow"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(tmp_path, lambda record: any(t.state == "RUNNING" for t in record.trials))

    os.killpg(process.pid, signal.SIGHUP)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert [t.state for t in open_study(tmp_path).record().trials] == ["COMPLETE"]


@pytest.mark.soak
def test_backend_of_a_notebook_does_not_stop_a_run(command, tmp_path):
    done = command(
        *SMALL, "--trials", "1", "--jobs", "1", MPLBACKEND="module://matplotlib_inline.backend_inline"
    )

    assert done.code == 0, done.err
    assert_sound(tmp_path, trials=1)
