"""Several ways to train one student, side by side: `tools/compare.py`."""
