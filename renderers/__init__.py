"""Differentiable pictures of 3D. Knows nothing of guidance."""
