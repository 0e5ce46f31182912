"""What teachers and students reach on a split, and how much of it the images decide."""
