"""Gradients from diffusion priors. Knows nothing of renderers: it sees frames, views and noise."""
