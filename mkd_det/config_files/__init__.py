"""Config files: reading, bases, overrides by dotted keys, paths."""
