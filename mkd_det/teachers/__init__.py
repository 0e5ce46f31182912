"""Frozen teachers: loading, running fast, caching, and what a student inherits."""
