"""Search from Python, as ``mnist-search run`` does: in a script, which needs no main guard, or a notebook.

>>> from mnist_search import StudyConfig, load_model, open_study, run_study
>>> config = StudyConfig.for_budget(1500, epochs=1, train_images=1000, val_images=100)
>>> study = run_study(config, n_trials=2, jobs=1, mlflow=False, progress=False)
>>> study
Study('budget-1500': 2 of 2 trials done, best ... % with 1,... parameters)
>>> study.curves()[["trial", "epoch"]].values.tolist()
[[0, 1], [1, 1]]

The same call continues a study, and the command line reads the same store. An error is a subclass of
``mnist_search.errors.MnistSearchError``. The package logs to the logger ``mnist_search``.
"""

from __future__ import annotations

import signal
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from sqlalchemy.exc import SQLAlchemyError

from experiments import StudyConfig
from mnist_search.errors import NotFound, UsageError
from mnist_search.execution.config import EngineName, RunConfig, WarmStart
from mnist_search.execution.progress import LogReporter, make_reporter
from mnist_search.execution.run_study import run_study as train_study
from mnist_search.process_env import DATA, EXPERIMENT, STORAGE, TRACKING
from mnist_search.records import EpochMetrics, StudyRecord, TrialRecord, percent
from mnist_search.search.stopping import StopConditions
from mnist_search.search.study import SearchStudy, study_name
from mnist_search.storage.database import Store, failure, retry
from mnist_search.tracking.config import make_tracking_config

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from mnist_search.training.device import PrecisionChoice

__all__ = ["Study", "StudyConfig", "load_model", "open_study", "run_study"]


class Study:
    """A study of a store. Each use reads the store, so that it shows what running workers have stored."""

    def __init__(self, name: str, store: Store) -> None:
        self.name, self.store = name, store
        self._study = SearchStudy.open(store, name)
        self.config: StudyConfig = self._study.config

    @property
    def record(self) -> StudyRecord:
        """The study with its trials, as stored now."""
        try:
            return retry(self._study.record)
        except (OSError, SQLAlchemyError, StorageInternalError) as error:
            raise failure(error, self.store.url) from error

    @property
    def trials(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return list(self.record.trials)

    @property
    def best(self) -> TrialRecord:
        """The complete trial with the highest validation accuracy; NotFound if there is none."""
        best = self.record.best
        if best is None:
            raise NotFound(f"study {self.name!r} has no complete trial yet; run it with run_study")
        return best

    def curve_records(self) -> list[dict[str, Any]]:
        """The metrics of every trained epoch as plain values, with the number of the trial."""
        return [{"trial": trial.number} | epoch.to_dict() for trial in self.trials for epoch in trial.curve]

    def curves(self) -> pd.DataFrame:
        """The metrics of every trained epoch, a row per trial and epoch.

        >>> curves = open_study("budget-1500").curves()
        >>> table = curves.pivot(index="epoch", columns="trial", values="val_accuracy")
        >>> table.shape  # table.plot() draws a line per trial
        (1, 2)
        """
        import pandas as pd

        return pd.DataFrame(self.curve_records(), columns=["trial", *(f.name for f in fields(EpochMetrics))])

    def trials_frame(self) -> pd.DataFrame:
        """A row per trial: state, results and params.

        >>> open_study("budget-1500").trials_frame()[["number", "state", "optimizer"]]
           number     state optimizer
        0       0  COMPLETE       ...
        1       1  COMPLETE       ...
        """
        import pandas as pd

        record = self.record
        params = dict.fromkeys(record.config.space.distributions)
        return pd.DataFrame([record.row(trial) | params | dict(trial.params) for trial in record.trials])

    def __repr__(self) -> str:
        record = self.record
        text = f"{len(record.done)} of {record.n_trials} trials done"
        if record.best:
            text += f", best {percent(record.best.val_accuracy)} with {record.best.num_params:,} parameters"
        return f"Study({self.name!r}: {text})"


def open_study(name: str, storage: str | None = None) -> Study:
    """A study of a store, to read it.

    >>> [trial.state for trial in open_study("budget-1500").trials]
    ['COMPLETE', 'COMPLETE']

    ``storage`` is the URL of the store; by default that of the command line: the environment variable
    MNIST_SEARCH_STORAGE or OPTUNA_STORAGE, else sqlite:///mnist-search.db.

    Raises:
        NotFound: no such store or study.
        UnusableConfiguration: not a study of mnist-search.
    """
    return Study(name, Store.open(storage or STORAGE.value))


def run_study(
    config: StudyConfig,
    n_trials: int | None = None,
    *,
    storage: str | None = None,
    study: str | None = None,
    sampler: BaseSampler | None = None,
    engine: EngineName = "processes",
    address: str | None = None,
    jobs: int | None = None,
    device: str = "auto",
    precision: PrecisionChoice = "auto",
    data_dir: str | Path | None = None,
    mlflow: bool = True,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    keep_models: int = 5,
    warm_start: WarmStart = "templates",
    timeout: float | None = None,
    trial_timeout: float | None = None,
    target_accuracy: float | None = None,
    patience: int | None = None,
    progress: bool = True,
) -> Study:
    """Search until the study has its number of trained trials; the same call continues it.

    Workers are other processes. A signal to the main thread releases their trials and is raised again, so
    that Ctrl-C raises KeyboardInterrupt; another thread handles no signals.

    Args:
        config: of the study; another than the stored one is refused.
        n_trials: total number of trained trials; by default the stored number, or 50.
        storage: see ``open_study``.
        study: name of the study; by default budget-BUDGET.
        sampler: an Optuna sampler in place of the one that ``config`` names, wrapped to respect the budget.
            Each worker has a pickled copy. A copy is reseeded if the study has proposals already: only a
            study that one worker runs without interruption repeats its proposals. The study notes the
            class; it refuses another one, and the command line.
        engine: what starts the workers: processes of this machine, or ray.
        address: of the Ray cluster: auto, or HOST:PORT; by default a local one.
        jobs: number of concurrent trials, per GPU if there are any; by default one per core.
        device: auto, cpu, mps, cuda for every GPU, or some as ``cuda:0,cuda:2``.
        precision: auto, bf16 or fp32.
        data_dir: folder of the MNIST files; by default MNIST_SEARCH_DATA, or a cache of downloads.
        mlflow: whether to log to MLflow.
        tracking_uri: by default MLFLOW_TRACKING_URI, or sqlite:///mlflow.db.
        experiment: of MLflow; by default MLFLOW_EXPERIMENT_NAME, or mnist-search.
        keep_models: number of best networks whose weights are kept.
        warm_start: templates, baselines or none: the first trials.
        timeout: seconds of this call.
        trial_timeout: seconds after which a trial is pruned.
        target_accuracy: validation accuracy at which to stop, a fraction.
        patience: trials without an improvement after which to stop.
        progress: whether to show progress on stderr; otherwise messages are logged as warnings.

    Raises:
        UsageError: an argument is out of range, or the sampler cannot be pickled.
        StudyConflict: the study has another configuration or sampler.
        NoFinishedTrials: a stop condition was met before any trial finished.
        MnistSearchError: another error of ``mnist_search.errors``.
    """
    if not isinstance(sampler, BaseSampler | None):
        raise UsageError(f"sampler takes a sampler object, not {sampler!r}; config has a name")
    folder = data_dir or DATA.value
    tracking = make_tracking_config(tracking_uri or TRACKING.value, experiment or EXPERIMENT.value)
    run_config = RunConfig(
        storage=storage or STORAGE.value,
        study=study_name(study or f"budget-{config.budget}"),
        config=config,
        n_trials=n_trials,
        sampler=sampler,
        engine=engine,
        address=address,
        jobs=jobs,
        device=device,
        precision=precision,
        data_dir=Path(folder) if folder else None,
        mlflow=tracking if mlflow else None,
        keep_models=keep_models,
        warm_start=warm_start,
        stop_conditions=StopConditions(
            timeout=timeout, trial_timeout=trial_timeout, target_accuracy=target_accuracy, patience=patience
        ),
    )
    result = train_study(run_config, make_reporter if progress else LogReporter)
    if result.stop and result.stop.signal:
        signal.raise_signal(result.stop.signal)
    return open_study(run_config.study, run_config.storage)


def load_model(
    source: Study | str | Path, storage: str | None = None, *, trial: int | None = None
) -> nn.Module:
    """A trained network in evaluation mode, from (N, 1, 28, 28) float pixels in [0, 1] to (N, 10) logits.

    >>> import torch
    >>> load_model("budget-1500")(torch.zeros(1, 1, 28, 28)).shape
    torch.Size([1, 10])

    Args:
        source: a study or its name, for its champion: the best trial, or after ``mnist-search finalize``
            the best finalist. Or a .pt2 or .safetensors file of ``mnist-search export`` beside its card.
        storage: see ``open_study``.
        trial: number of a trial instead of the champion.

    Raises:
        NotFound: no such study or trial, or its weights were not kept.
        UsageError: an ONNX file, which is no torch module.
        MnistSearchError: the file does not have the digest on its card.
        UnusableConfiguration: the file or its card is missing or damaged.
    """
    from torch import nn

    from mnist_search.evaluation.champion import champion
    from mnist_search.export.formats import FORMATS
    from mnist_search.export.inference import read_with_card
    from mnist_search.training.model import load_network

    if not isinstance(source, Study) and (isinstance(source, Path) or Path(source).suffix in FORMATS):
        module, _ = read_with_card(Path(source))
        if not isinstance(module, nn.Module):
            raise UsageError(f"{source} is not a torch module; load the .pt2 or .safetensors file")
        return module
    study = source if isinstance(source, Study) else open_study(source, storage)
    network = champion(study.store, study.name, trial)
    return load_network(network.config.architecture, network.weights)
