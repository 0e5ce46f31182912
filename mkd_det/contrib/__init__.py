"""Methods of single papers that the core does not need: 1xK filters."""
