"""Diffusion priors behind one protocol (guidance/prior.py)."""
