"""Search for hyperparameters: many short trainings by Ray Tune, the worse ones stopped early."""
