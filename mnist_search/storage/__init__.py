"""The study store."""
