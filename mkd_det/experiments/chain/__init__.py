"""Chains of assistants: a chain file becomes ordinary trainings."""
