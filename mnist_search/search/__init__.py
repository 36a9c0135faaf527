"""Proposing and pruning trials; knows Optuna."""
