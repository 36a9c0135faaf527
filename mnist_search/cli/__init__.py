"""Flags, printing and exit codes."""
