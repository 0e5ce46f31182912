"""Files, paths, library output and random states."""
