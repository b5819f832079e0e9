"""Flags of `polymode export` and `polymode inspect`: apart from their bodies, so that help imports neither."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from app.recipes import FORMAT_LIST


@dataclass(frozen=True)
class Export:
    """Write runs, finished or interrupted, or anybody's mesh files in other formats."""

    inputs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN|FILE")]
    """Run folders, and GLB, glTF, OBJ, PLY, STL, 3MF or OFF files."""
    format: Annotated[str, arg(metavar=FORMAT_LIST)]
    """Formats, separated by commas. stl and 3mf are closed, for printing; usdz needs the extra usd."""
    size: Annotated[str, arg(metavar="LENGTH")] = ""
    """The longest side in stl, 3mf and usdz: 80mm, 8cm, 0.08m or 3.15in. Default: a run's own, a file's own."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Write there, under the names of the runs and files. Default: into each run, beside each file."""
    overwrite: bool = False
    """Replace files of these names, never one that is read."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Inspect:
    """What a mesh is worth: holes, parts, crossings, thin walls, texture, size; of runs and anybody's files."""

    inputs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN|FILE")]
    """Run folders, and GLB, glTF, OBJ, PLY, STL, 3MF or OFF files."""
    size: Annotated[str, arg(metavar="LENGTH")] = ""
    """The longest side of the print, for thin walls and texels a millimetre. Default: a run's own, a file's own."""
    json: bool = False
    """Print JSON."""
