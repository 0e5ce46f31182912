"""Class maps: which class of a teacher is which of the student."""
