"""The page at the end of a distillation: what was learned, and what is shipped."""
