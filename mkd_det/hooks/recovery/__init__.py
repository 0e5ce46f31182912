"""Hooks that every run gets, so that nothing is lost when it stops."""
