"""Flags of `polymode compare`: apart from its body, so that other commands do not import it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from app.choices import one_of
from app.errors import UsageError
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
from guidance.settings import DSD, SCALE

DDIM = "ddim"  # the row of the prior's own samples
FREE_DSD = "dsd:hold=0"  # the paper's estimator


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
    """Methods, separated by commas; direct is possible in space 3d. METHOD:SETTING=VALUE is a row with another setting
    of the method or the run, for instance dsd:hold=0 or sds:guide.cfg.kind=rescale:guide.cfg.rescale=0.5."""
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
        """The rows asked for, each once."""
        return list(dict.fromkeys(m.strip() for m in self.methods.split(",") if m.strip()))

    def rows(self) -> list[str]:
        """What the table shows: the ceilings (the prior's samples, in space 3d also direct), then the methods. In
        pixels dsd brings a row without its hold, with which it is the prior's own sample."""
        names = self.names()
        fused = [DIRECT] if self.space == "3d" and DIRECT not in names else []
        if self.space == "image" and names.count("dsd") and FREE_DSD not in names:
            names.insert(names.index("dsd") + 1, FREE_DSD)
        return [DDIM, *fused, *names]

    def recipe(self, prompt: str, row: str, seed: int) -> Recipe:
        """The recipe of one cell: what `polymode generate` would run (space image runs its guidance on pixels).
        ValueError, one sentence, for a setting that is none."""
        method, *changes = row.split(":")
        guide = dataclasses.replace(self.guide, blind_camera=self.blind_camera or self.guide.blind_camera)
        plain = Recipe(
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
        return self.level(changed(plain, changes))

    def level(self, recipe: Recipe) -> Recipe:
        """`recipe` whose dsd follows paths of the four frames of space image, wherever these look from. UsageError
        where --dsd.elevation asks for others."""
        wanted, own = self.image.elevation, recipe.methods.dsd.elevation
        if self.space != "image" or recipe.method != "dsd" or own == wanted:
            return recipe
        if own != DSD.elevation:
            raise UsageError(
                f"--dsd.elevation {own:g} is not --image.elevation {wanted:g}, where the frames look from; leave one "
                "out."
            )
        dsd = dataclasses.replace(recipe.methods.dsd, elevation=wanted)
        return dataclasses.replace(recipe, methods=dataclasses.replace(recipe.methods, dsd=dsd))


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """`recipe` with SETTING=VALUE changes, each of its method or by its dotted path. ValueError, one sentence."""
    for change in changes:
        path, equals, value = change.partition("=")
        names = path.strip().replace("-", "_").split(".")
        own = getattr(recipe.methods, recipe.method, None)
        if own is not None and hasattr(own, names[0]):
            names = ["methods", recipe.method, *names]
        if not equals:
            raise ValueError(f"{change!r} is no SETTING=VALUE; write for instance dsd:hold=0.")
        recipe = _with(recipe, names, value.strip(), change)
    return recipe


def _with(part: Any, names: list[str], value: str, change: str) -> Any:
    """A copy of a dataclass with one setting, however deep, in the type that it has."""
    name, *rest = names
    old: Any = getattr(part, name, None) if dataclasses.is_dataclass(part) else None
    if old is None or dataclasses.is_dataclass(old) != bool(rest):
        raise ValueError(f"{change!r} names no setting; see polymode generate --help-all for them.")
    if rest:
        return dataclasses.replace(part, **{name: _with(old, rest, value, change)})  # pyright: ignore
    try:
        new = {"true": True, "false": False}[value.lower()] if isinstance(old, bool) else type(old)(value)
    except (KeyError, ValueError) as e:
        raise ValueError(f"{change!r}: {value!r} is no {type(old).__name__}.") from e
    return dataclasses.replace(part, **{name: new})  # pyright: ignore[reportArgumentType]


__all__ = ["DDIM", "DIRECT", "NAMES", "Compare", "ImageRecipe"]
