"""The pipeline as data, and one translator per orchestrator."""
