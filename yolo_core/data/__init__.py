"""Datasets, letterboxing, augmentation, caches and loaders."""
