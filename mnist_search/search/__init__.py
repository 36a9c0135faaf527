"""Proposing and pruning trials with Optuna."""
