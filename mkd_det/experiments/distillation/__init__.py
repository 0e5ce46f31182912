"""Two models and data become a written distill config, which is trained."""
