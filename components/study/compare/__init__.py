"""Models side by side: the stage compare and the command compare-models."""
