"""Summary of a study on its MLflow run: metrics, a Markdown note and a CSV leaderboard."""

from __future__ import annotations

import csv
import io

from mnist_search.records import StudyRecord, percent
from mnist_search.tracking.runs import Tracking, epoch_metrics, milliseconds, set_tags

NOTE_ROWS = 20
TABLE_HEADER = "| # | trial | validation | parameters | architecture |\n|--:|--:|--:|--:|:--|"


def log_summary(tracking: Tracking, record: StudyRecord) -> None:
    """Log metrics and note to the parent run; repeated calls change nothing."""
    parent, best = tracking.parent_run_id, record.best
    if record.done:
        values: dict[str, float] = {"trials_done": len(record.done), "rejected": record.rejected}
        if best is not None:
            values |= {"best_val_accuracy": best.val_accuracy or 0.0, "best_num_params": best.num_params or 0}
        timestamp = max(milliseconds(trial.completed) for trial in record.done)
        rows = epoch_metrics(values | {"epoch": len(record.done), "timestamp": timestamp})
        tracking.client.log_batch(parent, metrics=rows)
    tags = {
        "mlflow.note.content": study_note(record),
        "trials": f"{len(record.done)}/{record.n_trials}",
        "best_trial": str(best.number) if best else "",
    }
    set_tags(tracking, parent, tags)


def study_note(record: StudyRecord) -> str:
    """Progress and leaderboard as Markdown."""
    config, best = record.config, record.best
    states = [trial.state for trial in record.done]
    counts = ", ".join(f"{states.count(s)} {s.lower()}" for s in ("COMPLETE", "PRUNED", "FAIL"))
    note = (
        f"**{record.name}**: networks of at most {config.budget:,} parameters, "
        f"{config.space.epochs} epochs, {config.train_images:,} training and "
        f"{config.val_images:,} validation images.\n\n"
        f"{len(states)} of {record.n_trials} trials done ({counts}), {record.trained_epochs} epochs "
        f"trained, {record.rejected} over-budget proposals rejected.\n"
    )
    if best is None:
        return note
    rows = [
        f"| {rank} | {t.number} | {percent(t.val_accuracy)} | {t.num_params:,} | "
        f"`{config.space.architecture(t.params)}` |"
        for rank, t in enumerate(record.ranked[:NOTE_ROWS], 1)
    ]
    return note + (
        f"\nBest: trial {best.number}, validation accuracy {percent(best.val_accuracy)}, "
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
