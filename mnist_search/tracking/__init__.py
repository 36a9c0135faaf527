"""MLflow: runs, models, registry."""
