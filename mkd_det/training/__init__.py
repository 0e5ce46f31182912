"""A run from its config: preparation, resume, divergence, export."""
