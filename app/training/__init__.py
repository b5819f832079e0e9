"""What trains and ships weights. Of all that a user runs, `polymode train` alone imports it."""
