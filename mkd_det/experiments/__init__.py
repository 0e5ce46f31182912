"""Experiments of several trainings: chains, comparisons, the demo."""
