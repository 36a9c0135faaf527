"""The sync process of a run: write the study to MLflow until the supervisor asks for the end.

python -m mnist_search.execution.sync_process CONNECTION
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from mnist_search.errors import TryAgain, first_line
from mnist_search.execution.config import RunConfig
from mnist_search.execution.events import Message, ProcessEvent
from mnist_search.execution.runtime import Channel, run_process
from mnist_search.storage.database import Store
from mnist_search.storage.finals import name_of_finals
from mnist_search.storage.tracked import TrackedStudy

INTERVAL = 1.0
"""Seconds between two passes."""

MAX_INTERVAL = 30.0
"""Seconds between two attempts while MLflow is unavailable."""

MAX_SHARE = 0.1
"""Share of one core's time after which the passes become less frequent."""

GIVE_UP_SECONDS = 10.0
"""Time without progress, once the end was requested, after which the rest is left for the next command."""


class SyncLoop:
    """Passes of the sync, repeated after errors with a growing delay."""

    def __init__(self, config: RunConfig, channel: Channel) -> None:
        from mnist_search.tracking.sync import StudySync  # MLflow

        assert config.mlflow is not None
        self._config, self._channel = config, channel
        self._has_lock = self._has_failed = self._has_ended_killed = False
        self._delay = INTERVAL
        self._last_progress = time.monotonic()
        # A store that is not opened for writing takes SQLite's write lock for its few writes only.
        self._study = TrackedStudy(Store.open(config.storage), config.study)
        self._sync = StudySync(self._study, config.mlflow, config.data_dir, self._notify, self._on_progress)

    def run(self) -> None:
        """Run until the supervisor asks for the end and MLflow agrees with the store, or gives no answer."""
        self._on_progress()  # the imports took seconds
        with ExitStack() as lock:
            while not self._channel.should_stop:
                self._try_pass("RUNNING", lock)
                self._channel.poll(self._delay)
            self._last_progress = time.monotonic()
            self._sync.reset()  # read what MLflow has: runs may have been deleted in the UI
            status = self._channel.request  # None if the supervisor has ended
            while status and not self._channel.terminated and not self._try_pass(status, lock):
                if time.monotonic() - self._last_progress > GIVE_UP_SECONDS:
                    if self._has_lock:
                        self._notify(
                            "MLflow lacks runs of this study; the next mnist-search run, resume, finalize or "
                            "reproduce writes them from the store"
                        )
                    return
                time.sleep(min(self._delay, INTERVAL))

    def _try_pass(self, status: str, lock: ExitStack) -> bool:
        """Write to MLflow what is new, and whether that succeeded."""
        started = time.process_time()
        try:
            if not self._has_lock:
                lock.enter_context(self._study.lock(0.1))
                self._has_lock = True
        except TryAgain:  # the sync process of another command
            return False
        try:
            if not self._has_ended_killed:
                self._end_runs_of_killed()
            self._has_ended_killed = True
            self._sync.sync(status)
        except Exception as error:  # noqa: BLE001 - whatever happens to MLflow, the search goes on
            if not self._has_failed:
                self._notify(
                    f"cannot write to MLflow ({first_line(error)}); training continues, and missing runs are "
                    "written from the store later"
                )
            self._has_failed = True
            self._sync.reset()
            self._delay = min(2 * self._delay, MAX_INTERVAL)
            return False
        self._delay = min(max(INTERVAL, (time.process_time() - started) / MAX_SHARE), MAX_INTERVAL)
        return True

    def _end_runs_of_killed(self) -> None:
        """Write how the search of these finals has ended, or the finals of this search, if it was killed."""
        from mnist_search.tracking.killed import end_runs_of_killed

        config = self._config
        is_search = config.kind == "search"
        name = name_of_finals(config.study) if is_search else self._study.search_name
        if name is not None and config.mlflow is not None:
            store = Store.open(config.storage, write=True)
            end_runs_of_killed(store, name, config.mlflow, config.data_dir, self._notify, self._on_progress)

    def _notify(self, text: str) -> None:
        self._channel.send(Message(text))

    def _on_progress(self) -> None:
        self._last_progress = time.monotonic()
        self._channel.send(ProcessEvent.SYNC_PROGRESS)


if __name__ == "__main__":
    run_process(lambda config, channel: SyncLoop(config, channel).run())
