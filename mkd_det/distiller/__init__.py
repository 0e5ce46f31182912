"""The model that mmengine trains: one step, and its state."""
