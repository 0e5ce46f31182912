"""Advice after an error: taps and recipes that work for the pair."""
