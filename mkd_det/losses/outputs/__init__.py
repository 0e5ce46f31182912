"""Losses on what heads say: classes, boxes, masks, queries."""
