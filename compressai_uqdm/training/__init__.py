"""Training: one loop, and the phases of each family."""
