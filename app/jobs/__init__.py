"""Runs as jobs: their state in run folders, an index over a folder of runs, the worker and its supervisor."""
