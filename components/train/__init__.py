"""Train one variant with Ray Train."""
