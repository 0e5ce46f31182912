"""Chains of teacher assistants (DGKD, TAKD)."""
