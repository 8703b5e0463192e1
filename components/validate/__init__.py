"""Check the dataset; a rule that blocks stops the pipeline."""
