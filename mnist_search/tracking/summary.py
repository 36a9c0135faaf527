"""The live summary of a study as text: a note for people and a table for programs."""

from __future__ import annotations

import csv
import io

from mnist_search.records import StudyRecord, TrialRecord

NOTE_ROWS = 20


def study_note(record: StudyRecord) -> str:
    """Markdown: where the study stands and its leaderboard."""
    experiment, best = record.config, record.best
    states = [trial.state for trial in record.done]
    counts = ", ".join(f"{states.count(s)} {s.lower()}" for s in ("COMPLETE", "PRUNED", "FAIL"))
    note = (
        f"**{record.name}**: networks of at most {experiment.budget:,} parameters, "
        f"{experiment.space.epochs} epochs, {experiment.train_images:,} training and "
        f"{experiment.val_images:,} validation images.\n\n"
        f"{len(states)} of {record.n_trials} trials done ({counts}), {record.trained_epochs} epochs "
        f"trained, {record.rejected} over-budget proposals rejected.\n"
    )
    if best is None:
        return note
    return note + (
        f"\nBest: trial {best.number}, {_percent(best.val_accuracy)} of the validation images right "
        f"with {best.num_params:,} parameters.\n\n" + "\n".join(_table(record))
    )


def leaderboard_csv(record: StudyRecord) -> str:
    """Complete trials, best first."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("rank", "trial", "val_accuracy", "val_loss", "num_params", "epochs", "architecture"))
    for rank, trial in enumerate(record.ranked, 1):
        rows.writerow((rank, trial.number, trial.val_accuracy, trial.val_loss, trial.num_params,
                       trial.epochs, _architecture(record, trial)))  # fmt: skip
    return text.getvalue()


def _table(record: StudyRecord) -> list[str]:
    head = ["| # | trial | validation | parameters | architecture |", "|--:|--:|--:|--:|:--|"]
    rows = [
        f"| {rank} | {t.number} | {_percent(t.val_accuracy)} | {t.num_params:,} | `{_architecture(record, t)}` |"
        for rank, t in enumerate(record.ranked[:NOTE_ROWS], 1)
    ]
    return head + rows


def _architecture(record: StudyRecord, trial: TrialRecord) -> str:
    return str(record.config.space.architecture(trial.params))


def _percent(fraction: float | None) -> str:
    return f"{100 * (fraction or 0):.2f} %"
