"""Measurements, as ratios inside one run where machines are noisy. Run one with `python -m benchmarks.NAME`."""
