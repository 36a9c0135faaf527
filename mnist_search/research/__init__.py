"""Scripts behind ``experiments/LOG.md``; not part of the wheel."""
