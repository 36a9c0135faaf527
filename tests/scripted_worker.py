"""A process that follows a script, for tests of the supervisor: python -m scripted_worker CONNECTION."""

import os
import signal

from mnist_search.execution.events import Message, ProcessEvent
from mnist_search.execution.process import connect_to_parent
from mnist_search.process_env import exit_without_teardown


def run(connection, script):
    """Send the events of a script; crash, wait for a message, send it back, or never end, where it says so."""
    for step in script:
        match step:
            case "crash":
                os._exit(9)
            case "wait for a message":
                connection.recv()
            case "receive":
                connection.send(Message(connection.recv()))
            case "never end":
                while True:
                    signal.pause()
            case event:
                connection.send(event)


if __name__ == "__main__":
    connection, script = connect_to_parent()
    run(connection, [*script, ProcessEvent.DONE])
    exit_without_teardown(0)
