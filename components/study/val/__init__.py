"""Measure any model on a split: the command val and what it writes."""
