"""Summary of a study on its MLflow run: series of metrics, a Markdown note and a CSV leaderboard."""

from __future__ import annotations

import csv
import io

from mlflow.entities import Metric

from mnist_search.records import State, StudyRecord, percent
from mnist_search.tracking.runs import Tracking, epoch_metrics, milliseconds, set_tags

CHAMPION_TAG = "champion"
"""Tag of the parent run: the champion and its test accuracy in words."""

FINAL_STATES: tuple[State, ...] = ("COMPLETE", "PRUNED", "FAIL")

NOTE_ROWS = 20
TABLE_HEADER = "| # | trial | validation | parameters | architecture |\n|--:|--:|--:|--:|:--|"


class StudySeries:
    """The metrics of a study by number of finished trials, as series of its run."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking
        self._written: dict[str, set[int]] = {}

    def log(self, record: StudyRecord) -> None:
        """Log the points that the run lacks; a point stays if a trial that ended earlier is stored later."""
        client, parent = self._tracking.client, self._tracking.parent_run_id
        lacking = [point for point in series(record) if point.step not in self._steps(point.key)]
        if lacking:
            client.log_batch(parent, metrics=lacking)
        for point in lacking:
            self._steps(point.key).add(point.step)

    def _steps(self, name: str) -> set[int]:
        """Steps of the points that the run has."""
        if name not in self._written:
            history = self._tracking.client.get_metric_history(self._tracking.parent_run_id, name)
            self._written[name] = {point.step for point in history}
        return self._written[name]


def series(record: StudyRecord) -> list[Metric]:
    """For each finished trial, in the order of their ends: the study's metrics up to then, at that time."""
    points: list[Metric] = []
    done = sorted(record.done, key=lambda trial: (milliseconds(trial.completed), trial.number))
    over_budget = [milliseconds(trial.completed) for trial in record.trials if trial.is_over_budget]
    ranks = {trial.trial_id: rank for rank, trial in enumerate(record.ranked)}
    best, rejected, trained_epochs = None, 0, 0
    for step, trial in enumerate(done, 1):
        timestamp = milliseconds(trial.completed)
        trained_epochs += trial.epochs
        rejected += trial.rejected
        values: dict[str, float] = {"trials_done": step, "trained_epochs": trained_epochs}
        values["rejected"] = rejected + sum(moment <= timestamp for moment in over_budget)
        if trial.trial_id in ranks and (best is None or ranks[trial.trial_id] < ranks[best.trial_id]):
            best = trial
        if best is not None:
            values |= {"best_val_accuracy": best.val_accuracy or 0.0, "best_num_params": best.num_params or 0}
        points += epoch_metrics(values | {"epoch": step, "timestamp": timestamp})
    return points


def log_summary(tracking: Tracking, record: StudyRecord) -> None:
    """Log the note and the progress to the parent run; repeated calls change nothing."""
    best = record.best
    champion = tracking.client.get_run(tracking.parent_run_id).data.tags.get(CHAMPION_TAG)
    tags = {
        "mlflow.note.content": study_note(record, champion),
        "trials": f"{len(record.done)}/{record.n_trials}",
        "best_trial": str(best.number) if best else "",
    }
    set_tags(tracking, tracking.parent_run_id, tags)


def study_note(record: StudyRecord, champion: str | None = None) -> str:
    """Progress, champion of the final evaluation and leaderboard as Markdown."""
    config, best = record.config, record.best
    states = [trial.state for trial in record.done]
    complete, pruned, failed = (states.count(state) for state in FINAL_STATES)
    counts = f"{complete} complete, {pruned} pruned, {failed} failed"
    note = (
        f"**{record.name}**: networks of at most {config.budget:,} parameters, "
        f"{config.space.epochs} epochs, {config.train_images:,} training and "
        f"{config.val_images:,} validation images.\n\n"
        f"{len(states)} of {record.n_trials} trials done ({counts}), {record.trained_epochs} epochs "
        f"trained, {record.rejected} over-budget proposals rejected.\n"
    )
    if champion:
        note += f"\nChampion of the final evaluation: {champion}.\n"
    if best is None:
        return note
    rows = [
        f"| {rank} | {t.number} | {percent(t.val_accuracy)} | {t.num_params:,} | "
        f"`{config.space.architecture(t.params)}` |"
        for rank, t in enumerate(record.ranked[:NOTE_ROWS], 1)
    ]
    return note + (
        f"\nBest of the search: trial {best.number}, validation accuracy {percent(best.val_accuracy)}, "
        f"{best.num_params:,} parameters.\n\n{TABLE_HEADER}\n" + "\n".join(rows)
    )


def leaderboard_csv(record: StudyRecord) -> str:
    """Complete trials, best first."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    columns = ("val_accuracy", "val_loss", "num_params", "epochs", "architecture")
    rows.writerow(("rank", "trial", *columns))
    for rank, trial in enumerate(record.ranked, 1):
        row = record.row(trial)
        rows.writerow((rank, trial.number, *(row[column] for column in columns)))
    return text.getvalue()
