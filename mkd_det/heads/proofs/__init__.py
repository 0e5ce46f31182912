"""Proofs that heads are read exactly: one file for each kind of reading."""
