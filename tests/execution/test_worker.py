"""Worker: consecutive errors, stop conditions, another compute mode; in this process, on real MNIST."""

from __future__ import annotations

from dataclasses import replace
from multiprocessing import Pipe

import pytest
from optuna.trial import create_trial

from mnist_search.errors import MnistSearchError, NotFound
from mnist_search.execution.config import RunConfig
from mnist_search.execution.events import FINISH_RUNNING, STOP, Message, Stop, TrialEpoch, TrialStarted
from mnist_search.execution.process import ModuleProcess
from mnist_search.execution.runtime import Channel
from mnist_search.execution.worker import MAX_CONSECUTIVE_ERRORS, Worker
from mnist_search.search.stopping import StopConditions
from mnist_search.search.study import SearchStudy


class RecordingChannel:
    """A channel that records events; ``broken`` raises on every epoch, as a bug in a trial."""

    should_stop = is_finishing = False

    def __init__(self, broken=False):
        self.events = []
        self._broken = broken

    def send(self, event):
        if self._broken and isinstance(event, TrialEpoch):
            raise ZeroDivisionError("a bug")
        self.events.append(event)

    @property
    def texts(self):
        return [event.text for event in self.events if isinstance(event, Message)]


@pytest.fixture
def search_study(store, study_config):
    return SearchStudy.open_or_create(store, "s", study_config, n_trials=1)


@pytest.fixture
def config(store, mnist_dir):
    return RunConfig(
        storage=store.url, study="s", data_dir=mnist_dir, device="cpu", precision="fp32", keep_models=0
    )


def test_worker_stops_after_consecutive_errors(search_study, config):
    search_study.raise_n_trials(9)

    with pytest.raises(MnistSearchError, match=r"3 consecutive trials failed.*ZeroDivisionError: a bug"):
        Worker(config, RecordingChannel(broken=True)).run()

    assert [trial.state for trial in search_study.record().trials] == ["FAIL"] * MAX_CONSECUTIVE_ERRORS


def test_worker_stops_when_patience_is_exhausted(search_study, config):
    search_study.raise_n_trials(50)
    channel = RecordingChannel()

    Worker(replace(config, stop_conditions=StopConditions(patience=1)), channel).run()

    record = search_study.record()
    *_, last = channel.events
    assert isinstance(last, Stop)
    assert last.reason.endswith(f"trial {record.best.number}")
    assert record.best.number == len(record.trials) - 2


class FinishingChannel(RecordingChannel):
    """Requests to claim no more trials when the first one has started."""

    @property
    def is_finishing(self):
        return any(isinstance(event, TrialStarted) for event in self.events)


def test_worker_that_is_asked_to_finish_trains_its_trial_to_the_end_and_claims_no_other(search_study, config):
    search_study.raise_n_trials(3)
    channel = FinishingChannel()

    Worker(config, channel).run()

    (trial,) = search_study.record().trials
    assert (trial.state, trial.epochs) == ("COMPLETE", search_study.config.space.epochs)


def test_channel_receives_a_stop_after_the_request_to_finish():
    supervisor, connection = Pipe()
    channel = Channel(connection)

    states = []
    for message in (FINISH_RUNNING, STOP):
        supervisor.send(message)
        states.append((channel.should_stop, channel.is_finishing))

    assert states == [(False, True), (True, True)]


def test_worker_warns_once_when_earlier_trials_have_another_compute_mode(search_study, config):
    same, other = RecordingChannel(), RecordingChannel()
    Worker(config, same).run()
    search_study.raise_n_trials(2)
    Worker(config, same).run()
    search_study.raise_n_trials(4)

    Worker(replace(config, precision="bf16"), other).run()

    assert same.texts == []
    (text,) = other.texts
    assert text.startswith("trial 0 was trained on cpu")
    assert text.endswith("pass --precision to match")
    modes = [trial.device.rpartition(", ")[0][-4:] for trial in search_study.record().trials]
    assert modes == ["fp32", "fp32", "bf16", "bf16"]


@pytest.mark.parametrize("pruner", ["screening", "asha", "median", "percentile"])
def test_pruner_sees_the_stored_epochs(store, study_config, config, pruner):
    space = replace(study_config.space, epochs=3)
    study = SearchStudy.open_or_create(store, "s", replace(study_config, space=space, pruner=pruner), 6)
    study.study.enqueue_trial({})
    params = {
        name: d.choices[0] if hasattr(d, "choices") else d.low for name, d in space.distributions.items()
    }
    for _ in range(5):
        study.study.add_trial(
            create_trial(
                params=params,
                distributions=space.distributions,
                value=0.999,
                intermediate_values=dict.fromkeys((1, 2, 3), 0.999),
                system_attrs={"completed_rung_0": 0.999},
            )
        )
    channel = RecordingChannel()

    Worker(config, channel).run()

    first, *_ = study.record().trials
    assert (first.state, first.reason) == ("PRUNED", f"{pruner} pruner after epoch 1")
    assert [epoch.epoch for epoch in first.curve] == [1]


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"study": "none"}, NotFound, "no study 'none'"),
        ({"data_dir": None}, MnistSearchError, "AssertionError: "),
    ],
)
@pytest.mark.usefixtures("search_study")
def test_worker_process_sends_the_error_that_ended_it(config, changes, kind, text):
    process = ModuleProcess("mnist_search.execution.worker", replace(config, **changes))

    event = process.connection.recv()
    code = process.end(30)

    assert type(event.error) is kind
    assert text in str(event.error)
    assert event.traceback.startswith("Traceback")
    assert code == 0
