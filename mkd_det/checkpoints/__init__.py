"""Checkpoint files: one reader for every file that becomes a model."""
