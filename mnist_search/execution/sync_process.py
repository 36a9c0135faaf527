"""The sync process of a run: write the study to MLflow until the supervisor asks for the end.

python -m mnist_search.execution.sync_process CONNECTION
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from mnist_search.errors import TryAgain
from mnist_search.execution.config import SyncConfig
from mnist_search.execution.events import Message, SyncProgress
from mnist_search.execution.runtime import Channel, run_process
from mnist_search.storage.database import Store
from mnist_search.storage.tracked import TrackedStudy

INTERVAL = 1.0
"""Seconds between two passes."""

MAX_INTERVAL = 30.0
"""Seconds between two attempts while MLflow is unavailable."""

MAX_SHARE = 0.1
"""Share of one core's time after which the passes become less frequent."""

GIVE_UP_SECONDS = 10.0
"""Time after the last progress, once the end was requested, after which the rest is left for the next command."""


class SyncLoop:
    """Passes of the sync, repeated after errors with a growing delay."""

    def __init__(self, config: SyncConfig, channel: Channel) -> None:
        from mnist_search.tracking.sync import StudySync  # MLflow

        self._channel = channel
        self._messages: set[str] = set()
        self._delay = INTERVAL
        self._last_progress = time.monotonic()
        # A store that is not opened for writing takes SQLite's write lock for its few writes only.
        self._study = TrackedStudy(Store.open(config.storage), config.study)
        self._sync = StudySync(self._study, config.mlflow, config.data_dir, self._notify, self._on_progress)

    def run(self) -> None:
        """Run until the supervisor asks for the end and MLflow agrees with the store, or gives no answer."""
        self._on_progress()  # the imports took seconds
        if self._channel.poll(0) and not self._channel.request:
            return  # the supervisor has ended
        with ExitStack() as stack:
            has_lock, is_end = False, False
            while not self._channel.terminated:
                has_lock = has_lock or self._lock(stack)
                status = self._channel.request
                if status and not is_end:  # read what MLflow has: runs may have been deleted in the UI
                    is_end, self._last_progress = True, time.monotonic()
                    self._sync.reset()
                if has_lock and self._try_pass(status or "RUNNING") and status:
                    return
                if status and time.monotonic() - self._last_progress > GIVE_UP_SECONDS:
                    self._give_up(has_lock=has_lock)
                    return
                if self._wait() and not self._channel.request:
                    return  # the supervisor has ended

    def _wait(self) -> bool:
        """Wait for the next pass; whether the supervisor has sent a message or ended."""
        if self._channel.request:
            time.sleep(min(self._delay, INTERVAL))
            return True
        return self._channel.poll(self._delay)

    def _lock(self, stack: ExitStack) -> bool:
        try:
            stack.enter_context(self._study.lock(0.1))
        except TryAgain:  # the sync process of another command
            return False
        return True

    def _try_pass(self, status: str) -> bool:
        started = time.process_time()
        try:
            self._sync.sync(status)
        except Exception as error:  # noqa: BLE001 - whatever happens to MLflow, the search goes on
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            self._notify(
                f"cannot write to MLflow ({reason}); training continues, and missing runs are written from the "
                "store later",
                key="error",
            )
            self._sync.reset()
            self._delay = min(2 * self._delay, MAX_INTERVAL)
            return False
        self._delay = min(max(INTERVAL, (time.process_time() - started) / MAX_SHARE), MAX_INTERVAL)
        return True

    def _give_up(self, *, has_lock: bool) -> None:
        if has_lock:
            self._notify(
                "MLflow lacks runs of this study; the next mnist-search run, resume, finalize or reproduce "
                "writes them from the store"
            )

    def _notify(self, text: str, key: str | None = None) -> None:
        """Send a line for the user, once."""
        if (key or text) not in self._messages:
            self._messages.add(key or text)
            self._channel.send(Message(text))

    def _on_progress(self) -> None:
        self._last_progress = time.monotonic()
        self._channel.send(SyncProgress())


def run(config: SyncConfig, channel: Channel) -> None:
    """Run the sync of one study."""
    SyncLoop(config, channel).run()


if __name__ == "__main__":
    run_process(run)
