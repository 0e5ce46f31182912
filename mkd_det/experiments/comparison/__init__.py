"""Several ways to train one student, compared over seeds."""
