"""Trial threads of a worker: scheduling, stop, errors of the device; on the CPU, on real MNIST."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import AcceleratorError, OutOfMemoryError

from mnist_search.execution.config import RunConfig
from mnist_search.execution.events import DeviceFailed, Message, TrialEnded, TrialEpoch, TrialStarted
from mnist_search.execution.worker import Worker
from mnist_search.search.study import SearchStudy
from mnist_search.storage.database import Store

SMALL = {"depth": 3, "width_1": 4, "width_2": 4, "width_3": 4, "pool_1": 1, "pool_2": 1, "head": "gap"}
SMALL |= {"padding": "same", "transition": False, "transition_width": 4, "optimizer": "sgd", "sgd_lr": 0.1}


class ScriptedChannel:
    """A channel that records events and, when a trial starts, raises the next error of a script."""

    is_finishing = False

    def __init__(self, *errors, stop_after_epochs=None):
        self.events = []
        self._errors = list(errors)
        self._stop_after_epochs = stop_after_epochs

    def send(self, event):
        self.events.append(event)
        if isinstance(event, TrialStarted) and self._errors and (error := self._errors.pop(0)):
            raise error

    @property
    def should_stop(self):
        return len(self.of(TrialEpoch)) >= (self._stop_after_epochs or float("inf"))

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def make_study(tmp_path, empty_store, study_config):
    """Creates a search study with three small trials, of which the second has ``lr``, in a store of its own."""

    def make(lr=0.1):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.db"
        shutil.copy(empty_store, file)
        store = Store.open_or_create(f"sqlite:///{file}")
        study = SearchStudy.open_or_create(store, "s", study_config, n_trials=3)
        for rate in (0.1, lr, 0.1):
            study.study.enqueue_trial(SMALL | {"sgd_lr": rate}, skip_if_exists=False)
        return study, store

    return make


@pytest.fixture
def run(mnist_dir):
    """Runs a worker with some trial threads."""

    def call(store, channel, threads=3, alone=0):
        config = RunConfig(
            storage=store.url, study="s", data_dir=mnist_dir, device="cpu", precision="fp32",
            trial_threads=threads, trials_alone=alone,
        )  # fmt: skip
        Worker(config, channel).run()

    return call


def states(study):
    return [trial.state for trial in study.record().trials]


def curves(study):
    return [[epoch.val_accuracy for epoch in trial.curve] for trial in study.record().trials]


def test_threads_train_every_trial_once_and_like_one_thread(make_study, run):
    (alone, store), (together, other) = make_study(), make_study()
    channel = ScriptedChannel()
    run(store, ScriptedChannel(), threads=1)

    run(other, channel)

    assert states(together) == ["COMPLETE"] * 3
    assert curves(together) == curves(alone)
    assert sorted(event.number for event in channel.of(TrialStarted)) == [0, 1, 2]
    first_end = channel.events.index(channel.of(TrialEnded)[0])
    assert len([e for e in channel.events[:first_end] if isinstance(e, TrialStarted)]) == 3


@pytest.mark.filterwarnings("ignore:Fixed parameter sgd_lr")
def test_a_diverging_trial_changes_nothing_in_its_neighbours(make_study, run):
    (alone, store), (together, other) = make_study(), make_study(lr=1e9)
    run(store, ScriptedChannel(), threads=1)

    run(other, ScriptedChannel())

    assert states(together) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert [curves(together)[i] for i in (0, 2)] == [curves(alone)[i] for i in (0, 2)]


def test_stop_releases_every_running_trial(make_study, run):
    study, store = make_study()
    channel = ScriptedChannel(stop_after_epochs=1)

    run(store, channel)

    assert states(study) == ["WAITING"] * 3
    assert {event.state for event in channel.of(TrialEnded)} == {"WAITING"}


def test_a_trial_without_memory_is_released_and_lowers_the_number_of_threads(make_study, run):
    study, store = make_study()
    channel = ScriptedChannel(OutOfMemoryError("no memory"))

    run(store, channel)

    assert states(study) == ["COMPLETE"] * 3
    (message,) = channel.of(Message)
    assert message.text == "cpu has no memory for another trial; continuing with --jobs 2"
    assert [event.state for event in channel.of(TrialEnded)].count("WAITING") == 1


def test_worker_raises_when_the_device_has_no_memory_for_one_trial(make_study, run):
    study, store = make_study()

    with pytest.raises(torch.OutOfMemoryError):
        run(store, ScriptedChannel(*[OutOfMemoryError("no memory")] * 9))

    assert states(study) == ["WAITING"] * 3


def test_a_failed_device_releases_every_trial_and_ends_the_worker(make_study, run):
    study, store = make_study()
    channel = ScriptedChannel(None, None, AcceleratorError("CUDA error: an illegal memory access"))

    run(store, channel)

    assert states(study) == ["WAITING"] * 3
    assert channel.of(DeviceFailed) == [DeviceFailed("CUDA error: an illegal memory access", 3)]


def test_the_trial_that_fails_the_device_alone_fails(make_study, run):
    study, store = make_study()
    run(store, ScriptedChannel(None, None, AcceleratorError("CUDA error")))
    channel = ScriptedChannel(None, AcceleratorError("CUDA error"))

    run(store, channel, alone=3)
    run(store, ScriptedChannel(), alone=1)

    assert channel.of(DeviceFailed) == [DeviceFailed("CUDA error", 1)]
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.record().trials[1].reason == "error: CUDA error"


def test_an_error_of_one_thread_stops_the_others(make_study, run):
    study, store = make_study()

    with pytest.raises(OSError, match="disk"):
        run(store, ScriptedChannel(None, OSError("disk")))

    assert states(study).count("WAITING") >= 1
    assert "RUNNING" not in states(study)
