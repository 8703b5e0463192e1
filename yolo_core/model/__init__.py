"""The detector's layers, graphs, variants and checkpoints."""
