"""The page of a comparison: text, figures, detections."""
