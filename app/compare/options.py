"""Flags of `polymode compare`: apart from its body, so that other commands do not import it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from app.choices import one_of
from app.methods import DIRECT, METHODS, NAMES, Methods
from app.recipes import (
    ANNEALS,
    DEVICES,
    INITS,
    PRECISIONS,
    DirectRecipe,
    FieldRecipe,
    GuideRecipe,
    MeshRecipe,
    Recipe,
    RefineRecipe,
)
from guidance.settings import SCALE

DDIM = "ddim"  # the row of the prior's own samples


@dataclass(frozen=True)
class ImageRecipe:
    """Space image: four frames' pixels, under guidance alone."""

    steps: int = 50
    """Optimisation steps."""
    rate: float = 0.1
    """Adam's learning rate of the pixels."""
    scale: float = SCALE
    """Classifier-free guidance scale, Form A."""
    anneal: Annotated[str, one_of(*ANNEALS)] = "linear"
    """How the noise level falls over the steps: uniform (does not), linear, sqrt, dreamtime."""
    sigma_max: float = 13.0
    """Noise level sigma = s/a at the first step."""
    sigma_min: float = 0.4
    """Noise level sigma at the last step."""
    elevation: float = 15.0
    """Where the four frames, 90 degrees apart from the front, look from: degrees upwards."""


@dataclass(frozen=True)
class Compare:
    """Guidance methods side by side: the same prompts, seeds, initialisation and cameras, one report.html."""

    prompts: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT")]
    """What to make: one or more prompts, in English."""
    out: Path = Path("comparison")
    """The folder of the report; a comparison with the same settings continues there."""
    methods: str = ",".join(METHODS)
    """Methods, separated by commas; direct is possible in space 3d."""
    seeds: int = 4
    """Seeds a prompt: 0, 1, ..."""
    space: Literal["image", "3d"] = "image"
    """image: four frames' pixels, seconds a run. 3d: a whole draft, a minute or more a run."""
    blind_camera: bool = False
    """Tell the prior no cameras, and denoise frames one by one."""
    workers: int = 1
    """Processes, each on its share of the processor's cores."""
    prior: Annotated[str, arg(metavar="NAME|FOLDER")] = "embedded"
    """The diffusion prior: an alias of `polymode models list`, or a folder of exported weights."""
    init: Annotated[str, one_of(*INITS)] = "ball"
    """Space 3d: what a distillation grows from, ball (grey) or direct."""
    reference: int = 8
    """Samples of the prior, a prompt, that kernel distances are measured to."""
    device: Annotated[str, one_of(*DEVICES)] = "auto"
    """auto, cpu or cuda."""
    precision: Annotated[str, one_of(*PRECISIONS)] = "float32"
    """Numbers in the prior's network: float32, or bfloat16, faster on processors that have it."""
    image: ImageRecipe = dataclasses.field(default_factory=ImageRecipe)
    guide: GuideRecipe = dataclasses.field(default_factory=GuideRecipe)
    settings: Annotated[Methods, arg(name="")] = dataclasses.field(default_factory=Methods)
    field: FieldRecipe = dataclasses.field(default_factory=FieldRecipe)
    mesh: MeshRecipe = dataclasses.field(default_factory=MeshRecipe)
    refine: RefineRecipe = dataclasses.field(default_factory=RefineRecipe)
    direct: DirectRecipe = dataclasses.field(default_factory=DirectRecipe)
    json: bool = False
    """Print the result as JSON."""

    def names(self) -> list[str]:
        """The methods asked for, each once."""
        return list(dict.fromkeys(m.strip() for m in self.methods.split(",") if m.strip()))

    def rows(self) -> list[str]:
        """What the table shows: the ceilings (the prior's samples, in space 3d also direct), then the methods."""
        names = self.names()
        fused = [DIRECT] if self.space == "3d" and DIRECT not in names else []
        return [DDIM, *fused, *names]

    def recipe(self, prompt: str, method: str, seed: int) -> Recipe:
        """The recipe of one cell: what `polymode generate` would run (space image runs its guidance on pixels)."""
        guide = dataclasses.replace(self.guide, blind_camera=self.blind_camera or self.guide.blind_camera)
        return Recipe(
            prompt,
            prior=self.prior,
            method=method,
            init="ball" if method == DIRECT else self.init,
            seed=seed,
            device=self.device,
            precision=self.precision,
            guide=guide,
            methods=self.settings,
            field=self.field,
            mesh=self.mesh,
            refine=self.refine,
            direct=self.direct,
        )


__all__ = ["DDIM", "DIRECT", "NAMES", "Compare", "ImageRecipe"]
