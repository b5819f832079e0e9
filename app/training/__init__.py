"""What trains and ships weights: for the project's own people. Nothing that a user runs imports it."""
