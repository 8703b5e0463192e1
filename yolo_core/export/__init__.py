"""Exported formats and their parity check against PyTorch."""
