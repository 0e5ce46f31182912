"""The readers: one file for each kind of head."""
