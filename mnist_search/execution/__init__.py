"""Worker processes, their supervisor, and the trials that they run."""
