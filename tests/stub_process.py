"""A process for tests of SyncRunner: it does what its configuration says, then waits or ends."""

from __future__ import annotations

from mnist_search.execution.events import Message, SyncProgress, WorkerDone
from mnist_search.execution.process import connect_to_parent, exit_without_teardown


def main() -> None:
    connection, behavior = connect_to_parent()
    connection.send(SyncProgress())
    if behavior == "crash":
        exit_without_teardown(1)
    status = connection.recv()
    connection.send(Message(status))
    if behavior == "end":
        connection.send(WorkerDone())
        exit_without_teardown(0)
    while behavior == "compute":
        pass
    connection.recv()  # hang


if __name__ == "__main__":
    main()
