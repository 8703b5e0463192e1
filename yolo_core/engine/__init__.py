"""Training, evaluation, schedules, EMA and training checkpoints."""
