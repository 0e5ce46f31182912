"""A detector labels images: COCO annotations with scores, for trainings without it."""
