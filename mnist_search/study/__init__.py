"""A study in its store: claims, samplers, pruners, workers."""
