"""Errors that guidance raises on purpose; each message is one sentence what and one sentence do."""

from __future__ import annotations


class MissingWeights(RuntimeError):
    """Weights or an optional package are absent or damaged (the command line's exit code 3)."""
