"""Checks of one term: what it demands, and that it is least at agreement."""
