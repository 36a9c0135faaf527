"""The verb that shows the progress of a study and of its finals: status."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from typer import Argument

from mnist_search.cli import completion
from mnist_search.cli import options as opt
from mnist_search.cli.options import option
from mnist_search.cli.output import OutputConsole, print_fields
from mnist_search.errors import NotFound, UsageError

if TYPE_CHECKING:
    from mnist_search.records import FinalsRecord, StudyRecord
    from mnist_search.storage.database import Store

    Record = TypeVar("Record", StudyRecord, FinalsRecord)

BASELINES = "baselines"
"""Stands for a study whose finals are those of the baselines."""


def load_studies(storage: str, *names: str) -> list[StudyRecord]:
    """The named studies, or every study of the store; NotFound without a store or such a study."""
    from mnist_search.storage import database, studies

    store = database.Store.open(storage)
    selected = [studies.load(store, name) for name in names] or studies.mnist_search_studies(store)
    return [studies.study_record(store, study) for study in selected]


def load_study(storage: str, name: str | None) -> StudyRecord:
    """The study of this name, or the latest; NotFound without one."""
    if name is not None:
        [record] = load_studies(storage, name)
        return record
    records = load_studies(storage)
    if not records:
        raise NotFound("the store has no studies; start one with mnist-search run --budget 8000")
    return max(records, key=_last_start)


def status(
    study: Annotated[
        str | None,
        Argument(
            help="Name of the study; baselines for the trials of reproduce.",
            show_default="the latest",
            autocompletion=completion.study,
        ),
    ] = None,
    *,
    watch: Annotated[
        bool,
        option(
            "Show a live table of a search or of finals that another command trains, until they are done.",
            "--watch",
            "-w",
        ),
    ] = False,
    read: opt.ReadOptions,
) -> None:
    """Show the progress of a study: its trials by state, its best trial, its finals."""
    from mnist_search.storage.database import Store

    if watch and read.output_format != "table":
        raise UsageError("--watch shows a table; leave out --format, or leave out --watch")
    store = Store.open(read.storage)
    name = study or load_study(read.storage, None).name
    if watch:
        _watch(store, name)
    document = _status(store, name)
    print_fields(in_words(document) if read.output_format == "table" else document, read.output_format)


def in_words(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its best trial and its finals in words, without zero interrupted ones."""
    from mnist_search.records import percent

    words = {name: value for name, value in document.items() if value != 0 or name != "interrupted"}
    if best := document.get("best"):
        words["best"] = (
            f"trial {best['number']}: {percent(best['val_accuracy'])} with {best['num_params']:,} parameters, "
            f"{best['architecture']}"
        )
    finals = document.get("finals")
    if isinstance(finals, Mapping):
        words["finals"] = f"{finals['trials_done']} of {finals['n_trials']} trials done"
        if champion := finals.get("champion"):
            words["finals"] += (
                f"; champion {champion}: {percent(finals['test_accuracy_mean'])} of the test set"
            )
        words["finals"] += "".join(
            f", {finals[state]} {state}" for state in ("running", "failed") if finals[state]
        )
    return words


def _last_start(record: StudyRecord) -> float:
    return max((trial.started.timestamp() for trial in record.trials if trial.started), default=0.0)


def _status(store: Store, name: str) -> dict[str, Any]:
    finals = _finals(store, name)
    progress = None if finals is None else _finals_status(finals)
    if name == BASELINES:
        return {"finals": name} | (progress or {})
    record = _search(store, name)
    if progress is not None:
        progress |= _champion_status(store, record)
    return study_status(record) | _interrupted(store, record) | {"finals": progress}


def _interrupted(store: Store, record: StudyRecord) -> dict[str, int]:
    """Trials that run, and those whose process has ended; the next run or resume trains them again."""
    active = _active(store, record)
    running = [trial.trial_id in active for trial in record.trials if trial.state == "RUNNING"]
    return {"running": sum(running), "interrupted": len(running) - sum(running)}


def _champion_status(store: Store, record: StudyRecord) -> dict[str, Any]:
    """The champion of finished finals."""
    from mnist_search.evaluation.champion import final_evaluation

    final = final_evaluation(store, record)
    if final is None:
        return {"champion": None, "test_accuracy_mean": None}
    return {"champion": final.task.name, "test_accuracy_mean": final.statistics.test_accuracy_mean}


def _search(store: Store, name: str) -> StudyRecord:
    from mnist_search.storage import studies

    return studies.study_record(store, studies.load(store, name))


def _finals(store: Store, name: str) -> FinalsRecord | None:
    """The finals of a study or of the baselines; NotFound if the baselines have none."""
    from mnist_search.evaluation import finals

    if name != BASELINES:
        return finals.finals_of(store, _search(store, name))
    record = finals.baseline_finals(store)
    if record is None:
        raise NotFound("the store has no finals of the baselines; run mnist-search reproduce all")
    return record


def study_status(record: StudyRecord) -> dict[str, Any]:
    """Progress of a study, as one document."""
    states = [trial.state for trial in record.slots]
    best = record.best and record.row(record.best)
    return {
        "study": record.name,
        "budget": record.config.budget,
        "n_trials": record.n_trials,
        "trials_done": len(record.done),
        "complete": states.count("COMPLETE"),
        "pruned": states.count("PRUNED"),
        "failed": states.count("FAIL"),
        "running": states.count("RUNNING"),
        "waiting": states.count("WAITING"),
        "rejected": record.rejected,
        "trained_epochs": record.trained_epochs,
        "best": best and {key: best[key] for key in ("number", "val_accuracy", "num_params", "architecture")},
    }


def _finals_status(finals: FinalsRecord) -> dict[str, Any]:
    states = [trial.state for trial in finals.current]
    return {
        "n_trials": finals.n_trials,
        "trials_done": len(finals.done),
        "failed": states.count("FAIL"),
        "running": states.count("RUNNING"),
        "waiting": states.count("WAITING"),
    }


def _watch(store: Store, name: str) -> None:
    """Show a study until it is done, then its finals if they are not."""
    if name != BASELINES:
        _watch_trials(store, partial(_search, store, name), f"mnist-search resume {name}")
    finals = _finals(store, name)
    if finals is not None and len(finals.done) < finals.n_trials:
        command = "reproduce" if name == BASELINES else f"finalize {name}"
        _watch_trials(store, lambda: _finals(store, name) or finals, f"mnist-search {command}")


def _active(store: Store, record: Record) -> set[int]:
    """Ids of the trials that a process trains."""
    from mnist_search.storage import leases

    is_running = any(trial.state == "RUNNING" for trial in record.trials)
    statuses = leases.statuses(store) if is_running else {}
    return {trial_id for trial_id, status in statuses.items() if status == "active"}


def _watch_trials(store: Store, read_record: Callable[[], Record], command: str) -> None:
    from mnist_search.execution.watch import watch
    from mnist_search.storage.database import retry

    def read() -> tuple[Record, set[int]]:
        record = read_record()
        return record, _active(store, record)

    watch(lambda: retry(read), OutputConsole(), command)
