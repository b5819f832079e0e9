"""Measurements, as ratios inside one run where machines are noisy. Run one with `python -m benchmarks.NAME`."""

import app  # noqa: F401 - sets the OpenMP policy that runs have, before torch is imported
