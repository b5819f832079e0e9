"""One stage a file; each is a step function over the loop in app/optimize.py."""
