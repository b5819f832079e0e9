"""Flags of `polymode evaluate`: apart from its body, so that other commands do not import the evaluator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from app.recipes import DirectRecipe


@dataclass(frozen=True)
class Evaluate:
    """Rank of the right noun, colour, saturation and excess Janus, by an evaluator that is independent of the
    prior."""

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|FOLDER|prior")]
    """A run folder, a folder of run folders, or the word "prior": samples for every fixed prompt."""
    prompts: Path | None = None
    """Only for "prior": a file of prompts, one a line, instead of the 100 fixed ones."""
    count: int | None = None
    """Only for "prior": the first so many prompts."""
    out: Path | None = None
    """Write results.json and contact_sheet.png into this folder."""
    seed: int = 0
    """Only for "prior": seed of the samples."""
    prior: str = "embedded"
    """Only for "prior": alias or folder of the prior."""
    steps: int = DirectRecipe.steps
    """Only for "prior": DDIM steps."""
    scale: float = DirectRecipe.scale
    """Only for "prior": guidance scale."""
    guide_above: float = DirectRecipe.guide_above
    """Only for "prior": noise level sigma under which guidance is left out."""
    elevation: float = DirectRecipe.elevation
    """Only for "prior": elevation of the four views, degrees."""
    data: Path | None = None
    """Only for "prior": the training pack, for distances to real renders (users do not have it)."""
    json: bool = False
    """Print JSON instead of the table."""
