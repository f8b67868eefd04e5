"""What is done with problems and optimizers together: training, tuning."""
