"""Polymode as a library: what the command line does, as functions.

    import polymode

    result = polymode.generate("a red mushroom", method="direct", seed=3, faces=2000)
    print(result.mesh, result.metadata["seconds"]["total"])

Runs are the same runs: folders that `polymode jobs` lists and `polymode generate --resume` continues. Nothing is
printed unless `progress=True`. What goes wrong for a user is a UserError, one sentence; its `exit_code` is the one
that the command line would end with. Importing this package takes a tenth of a second: torch loads with the first run.
"""

from __future__ import annotations

from importlib.metadata import version

from app.errors import Cancelled, CollapseError, DiskError, MissingError, UsageError, UserError
from polymode.library import Result, evaluate, generate, reconstruct, texture

__version__ = version("polymode")

__all__ = [
    "Cancelled",
    "CollapseError",
    "DiskError",
    "MissingError",
    "Result",
    "UsageError",
    "UserError",
    "__version__",
    "evaluate",
    "generate",
    "reconstruct",
    "texture",
]
