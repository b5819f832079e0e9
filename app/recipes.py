"""Recipes: frozen dataclasses that configure everything. Command-line flags, saved YAML and presets all come from
these fields.

The docstring under each field is its help text.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from tyro.conf import Positional, arg

from app.errors import UsageError

PRESETS = ("draft", "standard", "high")
DEVICES = ("auto", "cpu", "cuda")
ANNEALS = ("uniform", "linear", "sqrt")
MAX_PROMPT = 500


@dataclass(frozen=True)
class FieldRecipe:
    """Stage 1: a radiance field grown from a grey ball under guidance."""

    steps: int = 300
    """Optimisation steps; each shows the prior `sets` x 4 views."""
    sets: int = 1
    """Sets of four views (90 degrees apart) a step."""
    resolution: int = 64
    """Grid vertices along each axis."""
    samples: int = 64
    """Samples of a ray across the unit sphere."""
    scale: float = 5.0
    """Classifier-free guidance scale, Form A (1 is conditional)."""
    anneal: str = "sqrt"
    """How the noise level falls over the steps: uniform (does not), linear, sqrt."""
    sigma_max: float = 5.0
    """Noise level sigma = s/a at the first step."""
    sigma_min: float = 0.6
    """Noise level sigma at the last step."""
    rate_density: float = 0.05
    """Adam's learning rate of the raw density."""
    rate_color: float = 0.05
    """Adam's learning rate of the raw colour."""
    smooth_density: float = 300.0
    """Weight of the density's squared total variation."""
    smooth_color: float = 100.0
    """Weight of the colour's squared total variation."""
    blob_density: float = 10.0
    """Density (per world unit) at the centre of the first ball."""
    blob_radius: float = 0.6
    """Radius of the first ball (world units)."""


@dataclass(frozen=True)
class MeshRecipe:
    """Stage 2: the field's surface as triangles."""

    resolution: int = 96
    """Marching-cubes samples along each axis."""
    faces: int = 10000
    """Triangles kept by decimation."""
    keep: float = 0.02
    """Loose parts with a smaller share of the faces than this are dropped."""


@dataclass(frozen=True)
class RefineRecipe:
    """Stage 3: vertices and colours moved under the rasterizer."""

    steps: int = 60
    """Optimisation steps; 0 skips the stage."""
    sets: int = 1
    """Sets of four views a step."""
    scale: float = 3.0
    """Classifier-free guidance scale, Form A."""
    sigma_max: float = 1.0
    """Noise level sigma at the first step."""
    sigma_min: float = 0.45
    """Noise level sigma at the last step."""
    rate_vertices: float = 0.001
    """Adam's learning rate of vertex positions (world units)."""
    rate_color: float = 0.03
    """Adam's learning rate of the raw colour."""
    laplacian: float = 150000.0
    """Weight of the mean squared uniform Laplacian of the vertices."""
    smooth_color: float = 0.5
    """Weight of the colour's squared total variation."""


@dataclass(frozen=True)
class TextureRecipe:
    """Stage 4: unwrap and bake."""

    size: int = 1024
    """Texels along each side of the atlas."""


@dataclass(frozen=True)
class Recipe:
    """All of a run: what config.yaml holds, and what repeats it."""

    prompt: Annotated[Positional[str], arg(metavar="PROMPT")]
    """What to make, in English."""
    preset: str = "draft"
    """draft, standard or high: sets every number below that is not given."""
    prior: str = "embedded"
    """The diffusion prior: an alias of `polymode models list`, or a folder of exported weights."""
    method: str = "sds"
    """The guidance method."""
    seed: int = 0
    """One integer that fans out to every random number of the run."""
    device: str = "auto"
    """auto, cpu or cuda."""
    field: FieldRecipe = dataclasses.field(default_factory=FieldRecipe)
    mesh: MeshRecipe = dataclasses.field(default_factory=MeshRecipe)
    refine: RefineRecipe = dataclasses.field(default_factory=RefineRecipe)
    texture: TextureRecipe = dataclasses.field(default_factory=TextureRecipe)


def preset(name: str, prompt: str = "") -> Recipe:
    """The recipe of a preset. UsageError for a name that is none."""
    if name == "draft":
        return Recipe(prompt)
    if name == "standard":
        return Recipe(
            prompt,
            preset=name,
            field=FieldRecipe(steps=800, sets=2),
            mesh=MeshRecipe(resolution=128, faces=20000),
            refine=RefineRecipe(steps=200, sets=2),
            texture=TextureRecipe(size=2048),
        )
    if name == "high":
        return Recipe(
            prompt,
            preset=name,
            field=FieldRecipe(steps=2000, sets=4, samples=96),
            mesh=MeshRecipe(resolution=160, faces=40000),
            refine=RefineRecipe(steps=500, sets=4),
            texture=TextureRecipe(size=2048),
        )
    raise UsageError(f"Unknown preset {name!r}; choose {_either(PRESETS)}.")


def check(recipe: Recipe, methods: typing.Iterable[str]) -> None:
    """UsageError, in one sentence, for anything that could not run."""
    prompt = recipe.prompt.strip()
    if not prompt:
        raise UsageError('The prompt is empty; say what to make, for instance "a red mushroom".')
    if len(prompt) > MAX_PROMPT:
        raise UsageError(f"The prompt has {len(prompt)} characters; the limit is {MAX_PROMPT}, so shorten it.")
    if any(not c.isprintable() for c in prompt):
        raise UsageError("The prompt contains control characters; use plain text on one line.")
    for value, allowed, what in (
        (recipe.preset, PRESETS, "preset"),
        (recipe.method, tuple(methods), "method"),
        (recipe.device, DEVICES, "device"),
        (recipe.field.anneal, ANNEALS, "anneal"),
    ):
        if value not in allowed:
            raise UsageError(f"Unknown {what} {value!r}; choose {_either(allowed)}.")
    if not 0 <= recipe.seed < 2**63:
        raise UsageError(f"The seed {recipe.seed} is out of range; use 0 to 2^63 - 1.")
    f, m, r, t = recipe.field, recipe.mesh, recipe.refine, recipe.texture
    for name, value, low, high in (
        ("field.steps", f.steps, 1, 100_000),
        ("field.sets", f.sets, 1, 64),
        ("field.resolution", f.resolution, 16, 256),
        ("field.samples", f.samples, 8, 512),
        ("field.sigma-min", f.sigma_min, 0.01, f.sigma_max),
        ("mesh.resolution", m.resolution, 16, 512),
        ("mesh.faces", m.faces, 100, 200_000),
        ("refine.steps", r.steps, 0, 100_000),
        ("refine.sets", r.sets, 1, 64),
        ("refine.sigma-min", r.sigma_min, 0.01, r.sigma_max),
        ("texture.size", t.size, 128, 8192),
    ):
        if not low <= value <= high:
            raise UsageError(f"--{name} {value} is out of range; use {low} to {high}.")


def _either(names: typing.Iterable[str]) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]


def to_yaml(recipe: Recipe) -> str:
    return yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False, allow_unicode=True)


def load_recipe(path: Path) -> Recipe:
    """Read config.yaml. UsageError for a file that is absent, no YAML, or has unknown or mistyped fields."""
    try:
        return _build(Recipe, yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError as e:
        raise UsageError(f"{path} does not exist; give the folder of an earlier run.") from e
    except (yaml.YAMLError, TypeError, ValueError) as e:
        raise UsageError(f"{path} is not a Polymode recipe ({str(e).splitlines()[0]}); correct or replace it.") from e


def _build(kind: Any, data: Any) -> Any:
    """A dataclass from nested dicts, checking names and scalar types."""
    if not isinstance(data, dict):
        raise TypeError(f"{kind.__name__} must be a mapping")
    hints = typing.get_type_hints(kind)
    unknown = set(data) - set(hints)
    if unknown:
        raise TypeError(f"unknown field {sorted(map(str, unknown))[0]!r}")
    values = {}
    for name, value in data.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            values[name] = _build(hint, value)
        elif hint is float and isinstance(value, int) and not isinstance(value, bool):
            values[name] = float(value)
        elif type(value) is hint:
            values[name] = value
        else:
            raise TypeError(f"{name} must be {hint.__name__}, got {value!r}")
    return kind(**values)
