"""Accuracy and speed over image sizes, and the comparison of variants."""
