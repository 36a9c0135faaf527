"""Comparison of studies, and a study as one HTML page."""
