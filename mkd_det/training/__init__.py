"""A run from its config: preparation, preflight checks, resume, export."""
