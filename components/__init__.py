"""The pipeline's stages: one folder each, run by ``python -m components NAME``."""
