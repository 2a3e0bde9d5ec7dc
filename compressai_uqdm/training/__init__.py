"""Training: what a run is, what each step sees, what it leaves behind, how it goes on."""
