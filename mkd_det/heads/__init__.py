"""What heads say: one reader a kind of head, and how a model is run for its features."""
