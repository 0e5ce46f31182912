"""From a distill config to a checked plan."""
