"""Parts of single papers that the core does not need: filters along rows."""
