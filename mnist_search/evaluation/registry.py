"""The champion in the registry: crowned only after a fresh process has proved it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mnist_search.errors import MnistSearchError
from mnist_search.evaluation.champion import Final, final_summary
from mnist_search.records import StudyRecord
from mnist_search.storage.database import Store
from mnist_search.tracking.base import ModelPayload
from mnist_search.tracking.config import TrackingConfig

PROOF_SECONDS = 600


def register_champion(
    store: Store,
    record: StudyRecord,
    tracking_config: TrackingConfig,
    data_dir: Path | None,
    say: Callable[[str], None],
) -> None:
    """Register a study's champion as ``mnist-search-BUDGET`` and give it the alias ``champion``.

    Nothing is done while finals are unfinished or MLflow lacks their runs.

    Args:
        store: holds the finals.
        record: the study.
        tracking_config: where runs are.
        data_dir: the MNIST files; None for the cache.
        say: told what was crowned, or that MLflow is out of reach.

    Raises:
        MnistSearchError: the registered model is not the network that was judged.
    """
    from mnist_search.data import mnist
    from mnist_search.tracking.models import CHAMPION, Registry  # a second to import
    from mnist_search.tracking.setup import parent_of, prepare

    final = final_summary(store, record)
    run_id = final.training.run_id if final else None
    prepared = prepare(tracking_config, parent_of(record), say) if final and run_id else None
    if final is None or run_id is None or prepared is None:
        return
    folder, registry = mnist.find(data_dir).absolute(), Registry(prepared)
    name = f"mnist-search-{record.config.budget}"
    model_id = registry.log(name, run_id, lambda: _card(final, folder), {"study": record.name})
    proof = _proof(tracking_config.tracking_uri, f"models:/{model_id}", folder)
    _check(final, proof, f"models:/{model_id}")
    version = registry.register(name, model_id, run_id)
    evidence = {key: str(value) for key, value in proof.items()}
    registry.set_champion_alias(
        name, version, evidence | {"study": record.name, "n_seeds": str(final.summary.n_seeds)}
    )
    say(f"{name} version {version} is the champion: models:/{name}@{CHAMPION}")


def _card(final: Final, folder: Path) -> ModelPayload:
    from mnist_search.tracking.run_info import final_payload  # torch

    return final_payload(final.training.task, final.series.weights_of(final.training), folder)


def _proof(tracking_uri: str, model_uri: str, folder: Path) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "mnist_search.evaluation.verify_model",
        tracking_uri,
        model_uri,
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROOF_SECONDS, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise MnistSearchError(f"{model_uri} cannot be loaded in a fresh process: {reason}")
    proof: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return proof


def _check(final: Final, proof: dict[str, float], model_uri: str) -> None:
    result, parameters = final.training.result, final.training.task.architecture.num_params()
    assert result is not None
    if proof["parameters"] != parameters or proof["test_accuracy"] != result.test_accuracy:
        raise MnistSearchError(
            f"{model_uri} is not the network that was judged: {proof['parameters']} parameters and "
            f"{proof['test_accuracy']:.4f} on test in a fresh process, {parameters} and "
            f"{result.test_accuracy:.4f} in the finals"
        )
