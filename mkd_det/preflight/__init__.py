"""Checks of a whole run before its first step: runner, data, hooks, launchers."""
