"""Progressive coding of DCT coefficients with integer context models."""
