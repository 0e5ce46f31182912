"""Losses on feature maps: features, attention, relations."""
