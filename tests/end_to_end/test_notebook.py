"""The Python API as a user calls it: in a script without a main guard and in a notebook."""

from __future__ import annotations

import os
import signal
import time

import nbformat
import pytest
from nbclient import NotebookClient
from soundness import assert_sound, open_study

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

SEARCH = """
from mnist_search import StudyConfig, load_model, run_study

config = StudyConfig.for_budget(1500, epochs=1, train_images=1000, val_images=100, pruner="none")
study = run_study(config, n_trials=2, jobs=2, warm_start="none")
"""

PREDICT = """
import os
from pathlib import Path

import torch

from mnist_search.data.mnist import read_training

images, _ = read_training(Path(os.environ["MNIST_SEARCH_DATA"]))
pixels = torch.from_numpy(images[:1].copy()).unsqueeze(1) / 255
print(study.best.num_params <= 1500, load_model(study)(pixels).argmax(1).item() in range(10))
"""

SAMPLER = """
from optuna.samplers import TPESampler


class SGDSampler(TPESampler):
    def sample_independent(self, study, trial, name, distribution):
        if name == "optimizer":
            return "sgd"
        return super().sample_independent(study, trial, name, distribution)

"""

SAMPLER_SEARCH = SEARCH.replace("jobs=2", "jobs=2, mlflow=False, sampler=SGDSampler(seed=1)")

INTERRUPTED_SEARCH = """
import signal

from mnist_search import StudyConfig, run_study

signal.signal(signal.SIGTERM, lambda *_: print("former handler"))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets background jobs ignore it
config = StudyConfig.for_budget(1500, epochs=20, train_images=1000, val_images=100, pruner="none")
study = run_study(config, n_trials=2, jobs=1, warm_start="none", mlflow=False)
print(study)
"""


@pytest.fixture(autouse=True)
def _data(mnist_dir, monkeypatch):
    monkeypatch.setenv("MNIST_SEARCH_DATA", str(mnist_dir))


@pytest.fixture
def start(spawn, tmp_path):
    """Start a script in a new process group."""

    def call(text):
        script = tmp_path / "script.py"
        script.write_text(text)
        return spawn(script)

    return call


def output_of(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def wait_for_an_epoch(folder, process):
    """Wait until a running trial has stored an epoch."""
    while process.poll() is None:
        time.sleep(0.1)
        if (folder / "mnist-search.db").exists():
            try:
                trials = open_study(folder).record().trials
            except Exception:  # noqa: BLE001 - the study does not exist yet
                continue
            if any(trial.state == "RUNNING" and trial.epochs for trial in trials):
                return
    pytest.fail(process.stderr.read())


@pytest.mark.slow
def test_script_without_a_main_guard_searches_and_predicts(start, tmp_path):
    out = output_of(start("print('started')\n" + SEARCH + PREDICT))

    assert out.splitlines() == ["started", "True True"]
    assert_sound(tmp_path, trials=2)


@pytest.mark.slow
def test_notebook_searches_with_its_own_sampler_and_predicts(tmp_path):
    frame = "print(study.curves().pivot(index='epoch', columns='trial', values='val_accuracy').shape)"
    cells = [SAMPLER, SAMPLER_SEARCH, "study", frame, PREDICT]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])

    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()

    _, search, shown, curves, prediction = [cell.outputs for cell in notebook.cells]
    assert "trial 1   complete" in "".join(output.text for output in search)
    assert shown[0].data["text/plain"].startswith("Study('budget-1500': 2 of 2 trials done, best ")
    assert curves[0].text == "(1, 2)\n"
    assert prediction[0].text == "True True\n"
    record = assert_sound(tmp_path, trials=2, tracked=False)
    assert {trial.params["optimizer"] for trial in record.trials} == {"sgd"}


@pytest.mark.slow
def test_sampler_object_continues_its_study_and_the_command_line_refuses_it(start, command, tmp_path):
    output_of(start(SAMPLER + SAMPLER_SEARCH))
    output_of(start(SAMPLER + SAMPLER_SEARCH.replace("n_trials=2", "n_trials=3")))

    record = assert_sound(tmp_path, trials=3, tracked=False)
    assert {trial.params["optimizer"] for trial in record.trials} == {"sgd"}
    assert len({trial.params["sgd_lr"] for trial in record.trials}) == 3
    assert record.config.sampler == "__main__.SGDSampler"
    for arguments in (["run", "--budget", "1500"], ["resume", "budget-1500", "--trials", "4"]):
        refused = command(*arguments)
        assert refused.code == 65
        assert refused.err == (
            "mnist-search: the study is searched with a __main__.SGDSampler object; continue it with "
            "mnist_search.run_study(sampler=...)\n"
        )
    assert assert_sound(tmp_path, trials=3, tracked=False).n_trials == 3


@pytest.mark.soak
def test_signal_releases_the_trials_and_is_raised_in_the_script(start, tmp_path):
    terminated = start(INTERRUPTED_SEARCH)
    wait_for_an_epoch(tmp_path, terminated)
    terminated.terminate()
    out = output_of(terminated)
    assert out.startswith("former handler\nStudy('budget-1500': ")
    assert {trial.state for trial in open_study(tmp_path).record().trials} <= {"WAITING", "COMPLETE"}

    interrupted = start(INTERRUPTED_SEARCH)
    wait_for_an_epoch(tmp_path, interrupted)
    os.killpg(interrupted.pid, signal.SIGINT)
    _, err = interrupted.communicate()
    assert interrupted.returncode == -signal.SIGINT  # a shell shows 130
    assert err.endswith("KeyboardInterrupt\n")
    assert {trial.state for trial in open_study(tmp_path).record().trials} <= {"WAITING", "COMPLETE"}

    assert "2 of 2 trials done" in output_of(start(INTERRUPTED_SEARCH))
    assert_sound(tmp_path, trials=2, tracked=False)
