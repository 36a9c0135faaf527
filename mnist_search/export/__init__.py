"""Model files, their cards, and their use."""
