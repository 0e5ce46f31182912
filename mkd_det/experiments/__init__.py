"""Many trainings as one job: runs, chains, comparisons, the demo."""
