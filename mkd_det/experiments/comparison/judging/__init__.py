"""Statistics over seeds: differences, verdicts, and how many seeds they take."""
