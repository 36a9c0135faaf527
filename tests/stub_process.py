"""A process for tests of SyncRunner: it does what its configuration says, then waits or ends."""

from __future__ import annotations

from mnist_search.execution.events import Message, ProcessEvent
from mnist_search.execution.process import connect_to_parent
from mnist_search.process_env import exit_without_teardown


def main() -> None:
    connection, behavior = connect_to_parent()
    connection.send(ProcessEvent.SYNC_PROGRESS)
    if behavior == "crash":
        exit_without_teardown(1)
    status = connection.recv()
    connection.send(Message(status))
    if behavior == "end":
        connection.send(ProcessEvent.DONE)
        exit_without_teardown(0)
    while behavior == "compute":
        pass
    connection.recv()  # hang


if __name__ == "__main__":
    main()
