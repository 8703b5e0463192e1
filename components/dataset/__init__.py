"""Materialise one dataset version in the canonical layout."""
