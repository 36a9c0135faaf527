"""Data, networks and their training; it does not know that it is searched."""
