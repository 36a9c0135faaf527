"""The engine Ray: workers are actors of a Ray cluster; all state is in the study store.

Ray places an actor on any node with a free CPU or GPU, and a replacement on the next one that joins.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any

from mnist_search.devices import TRIALS_PER_GPU
from mnist_search.errors import Unavailable, UnusableConfiguration, first_line
from mnist_search.execution.config import RunConfig
from mnist_search.execution.events import Event, TrialStarted
from mnist_search.execution.process import child_environment
from mnist_search.process_env import usable_cores
from mnist_search.storage.urls import sqlite_path

if TYPE_CHECKING:
    import numpy as np

CONNECT_SECONDS, RETRY_SECONDS = 5.0, 1.0

POLL_SECONDS = 5.0
"""How long a call for events waits for one."""


@contextmanager
def ray_launcher(config: RunConfig) -> Iterator[RayLauncher]:
    """Connect to the cluster that ``config.address`` names, or start a local one.

    Raises:
        UnusableConfiguration: Ray is not installed, or the store is a file and the cluster has several nodes.
        Unavailable: there is no cluster at the address.
    """
    on_termination = signal.getsignal(signal.SIGTERM)
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if config.address is None:  # Ray listens on every address, and runs the code of whoever connects
        environment["RAY_AUTH_MODE"] = "token"
    os.environ.update({name: os.environ.get(name, value) for name, value in environment.items()})
    try:
        import ray
    except ImportError as error:
        raise UnusableConfiguration("Ray is not installed; pip install 'mnist-search[ray]'") from error
    if config.address and ":" in config.address:
        _check_address(config.address)
    local: dict[str, Any] = {"num_cpus": usable_cores(), "include_dashboard": False}
    workers_path = {"env_vars": {"PYTHONPATH": child_environment()["PYTHONPATH"]}}
    try:
        with warnings.catch_warnings(action="ignore"):
            ray.init(
                config.address or "local",
                namespace="mnist-search",
                runtime_env=workers_path,
                log_to_driver=False,
                logging_level="ERROR",
                **({} if config.address else local),
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(config.address, error) from error
    try:
        launcher = RayLauncher(config)
        launcher.check_store()
        yield launcher
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_termination)  # Ray has set its own


def _check_address(address: str) -> None:
    """Raise Unavailable if nobody listens there; Ray tries for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> Unavailable:
    return Unavailable(
        f"no Ray cluster at {address}: {first_line(error)}; start one with ray start --head, or leave out --address"
    )


class RayLauncher:
    """Starts the workers of one command as actors."""

    def __init__(self, config: RunConfig) -> None:
        import ray

        self._config = config
        self._nodes = [node for node in ray.nodes() if node["Alive"]]
        self._actor = ray.remote(max_concurrency=3, max_restarts=0)(WorkerActor)
        self._data: Any = None

    def check_store(self) -> None:
        """Raise UnusableConfiguration if several nodes would share a file."""
        if len(self._nodes) > 1 and sqlite_path(self._config.storage):
            raise UnusableConfiguration(
                f"the {len(self._nodes)} nodes of the Ray cluster cannot share a SQLite file; move the study with "
                f"mnist-search copy {self._config.study} --to postgresql://USER@HOST/DATABASE, and pass --storage"
            )

    def worker_configs(self, n_left: int) -> list[RunConfig]:
        """A worker per GPU with several trial threads, and one per CPU of the nodes without a GPU."""
        resources = [node["Resources"] for node in self._nodes]
        device = self._config.device
        n_gpus = 0 if device == "cpu" else sum(int(each.get("GPU", 0)) for each in resources)
        on_cpu = [int(each.get("CPU", 0)) for each in resources if device == "cpu" or not each.get("GPU")]
        n_cpus = 0 if device == "cuda" else sum(on_cpu)
        threads = self._config.jobs or TRIALS_PER_GPU
        on_gpu = [replace(self._config, device="cuda:0", trial_threads=threads)] * min(
            n_gpus, -(-n_left // threads)
        )
        n_cpus = min(n_cpus, self._config.jobs or n_cpus, max(0, n_left - threads * len(on_gpu)))
        return [*on_gpu, *[replace(self._config, device="cpu")] * n_cpus]

    def start(self, config: RunConfig) -> RayWorker:
        """Start a worker; it waits for a node with a free CPU or GPU."""
        if self._data is None:
            self._data = self._put_data()
        n_gpus = int(config.device != "cpu")
        actor = self._actor.options(num_cpus=1, num_gpus=n_gpus).remote()
        return RayWorker(config, actor, self._data)

    def _put_data(self) -> Any:
        """The images of the study in the object store, which the workers of a node map."""
        import ray

        # The driver does not import torch; the task runs beside it, where the files are.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        load = ray.remote(num_cpus=0, num_returns=4, scheduling_strategy=here)(_load_arrays)
        return load.remote(self._config)


def _load_arrays(config: RunConfig) -> tuple[np.ndarray, ...]:
    from mnist_search.execution.worker import load_data

    data = load_data(config, "cpu")
    return tuple(t.numpy() for digits in (data.train, data.val) for t in (digits.images, digits.labels))


class WorkerActor:
    """A worker on a node; the methods run in threads of their own."""

    def __init__(self) -> None:
        self._parent, self._child = Pipe()

    def node(self) -> tuple[str, str]:
        """Id and host name of the node."""
        import platform

        import ray

        return ray.get_runtime_context().get_node_id(), platform.node()

    def run(self, config: RunConfig, *arrays: np.ndarray) -> None:
        """Run the worker to its end."""
        import torch

        from mnist_search.data.dataset import Digits, Split
        from mnist_search.execution import worker
        from mnist_search.execution.runtime import report_outcome

        with warnings.catch_warnings(action="ignore"):  # the arrays are read-only, and no one writes them
            data = Split(
                Digits(*map(torch.from_numpy, arrays[:2])), Digits(*map(torch.from_numpy, arrays[2:]))
            )
        with self._child:
            report_outcome(partial(worker.run, data=data.to(config.device)), config, self._child)

    def events(self) -> list[Event] | None:
        """The events since the last call, waiting for one; None after the last one."""
        events: list[Event] = []
        try:
            while self._parent.poll(0 if events else POLL_SECONDS):
                events.append(self._parent.recv())
        except (EOFError, OSError):
            return events or None
        return events

    def send(self, message: object) -> None:
        """Send the worker a message of the supervisor."""
        with suppress(OSError):
            self._parent.send(message)


def _is_alive(node_id: str) -> bool:
    import ray

    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())


class RayWorker:
    """A worker as the supervisor sees it; see ``ModuleProcess``.

    Attributes:
        config: what the worker has received.
        connection: receives its events; receiving raises EOFError once it has ended.
        is_waiting: whether no node has a place for it yet.
        lost_node: the node that was lost with it.
    """

    def __init__(self, config: RunConfig, actor: Any, data: Any) -> None:
        self.config = config
        self.connection, self._events = Pipe(duplex=False)
        self.is_waiting = True
        self.lost_node: str | None = None
        self._actor = actor
        self._run = actor.run.remote(config, *data)
        threading.Thread(target=self._relay, name="ray events", daemon=True).start()

    def _relay(self) -> None:
        """Pass the events of the actor on to ``connection``, until it ends or dies."""
        from ray.exceptions import RayError

        try:
            node_id, name = self._call(self._actor.node)
            self.is_waiting = False
            try:
                while (events := self._call(self._actor.events)) is not None:
                    for event in events:
                        is_start = isinstance(event, TrialStarted)
                        self._events.send(replace(event, node=name) if is_start else event)
            except RayError:
                if not _is_alive(node_id):
                    self.lost_node = name
        except (RayError, OSError):
            pass  # it was killed before it had a node, or the supervisor has closed the connection
        finally:
            self._events.close()

    def _call(self, method: Any) -> Any:
        """The result of a method of the actor; again while its node does not answer, until Ray declares it dead."""
        import ray
        from ray.exceptions import ActorUnavailableError

        while True:
            try:
                return ray.get(method.remote())
            except ActorUnavailableError:
                time.sleep(RETRY_SECONDS)

    def send(self, message: object) -> None:
        """Send a message; it ends a worker that waits for a node."""
        if self.is_waiting:
            self.kill()
        else:
            self._actor.send.remote(message)

    def kill(self) -> None:
        """Kill the worker."""
        import ray

        ray.kill(self._actor)

    def end(self, seconds: float) -> int:
        """Wait for the worker, kill it after ``seconds``, and close the connection; its exit code."""
        import ray

        try:
            ray.get(self._run, timeout=seconds)
        except ray.exceptions.RayError:  # it was killed, or has not ended in time
            code = -9
        else:
            code = 0
        self.kill()
        self.connection.close()
        return code
