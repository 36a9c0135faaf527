"""How: the machine that searches. It alone imports torch, MLflow and Typer."""
