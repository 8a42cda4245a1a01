"""Training POLAR models: comparisons, losses and the loop, in one process."""
