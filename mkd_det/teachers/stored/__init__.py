"""Teachers whose outputs are stored: the file, and its rows on augmented images."""
