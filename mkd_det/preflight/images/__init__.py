"""Checks of training images: those without labels, and those of stored teachers."""
