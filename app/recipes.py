"""Recipes: frozen dataclasses that configure everything. Command-line flags, saved YAML and presets all come from
these fields.

The docstring under each field is its help text.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Suppress, arg

from app.choices import either, one_of
from app.errors import UsageError
from app.export.mesh_files import KINDS, is_mesh_name
from app.export.size import FORMATS, parse_formats, parse_size
from app.methods import DIRECT, NAMES, Methods
from app.ranges import check_numbers
from app.text import control, tidy, visible
from guidance.settings import CFG_KINDS, DIVERGENCES, GUIDE_ABOVE, SCALE, STEPS, WEIGHT_NAMES, Cfg

PRESETS = ("draft", "standard", "high")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "bfloat16")
ANNEALS = ("uniform", "linear", "sqrt", "dreamtime")
INITS = ("ball", "direct")
SURFACES = ("mesh", "tetrahedra")
SYMMETRIES = ("none", "x")
FINISHES = ("smooth", "lowpoly")
BACKGROUNDS = ("auto", "alpha", "key", "grabcut", "rembg", "none")
HOLES = ("auto", "cut", "keep")
MAX_PROMPT = 500
FORMAT_LIST = "{" + ",".join(FORMATS) + "},..."


@dataclass(frozen=True)
class GuideRecipe:
    """What every guidance method shares: what the prior is told, classifier-free guidance, weight and clipping."""

    negative: Annotated[str, arg(aliases=("--negative",))] = ""
    """Negative prompt, for csd, nfsd and perp-neg."""
    blind_camera: bool = False
    """Tell the prior no cameras, and denoise frames one by one: the view-blind prior, on which faces multiply."""
    view_words: bool = False
    """Append "front view" and so on to the prompt by azimuth; for priors without cameras."""
    weight: Annotated[str, one_of(*WEIGHT_NAMES)] = "s2"
    """Weight of a time step: s2 (s_t squared) or uniform."""
    clip: float = 0.0
    """Bound of the gradient's elements after weighting; 0 is none."""
    clip_pixel: float = 0.0
    """Bound of the largest channel of a pixel's gradient, which keeps its direction; 0 is none."""
    shared_noise: bool = False
    """One noise for the four frames of a set, instead of one a frame."""
    cfg: Cfg = dataclasses.field(default_factory=Cfg)


@dataclass(frozen=True)
class FieldRecipe:
    """Stage 1: a radiance field grown from a grey ball under guidance."""

    steps: int = 150
    """Optimisation steps; each shows the prior `sets` x 4 views."""
    sets: int = 1
    """Sets of four views (90 degrees apart) a step."""
    resolution: int = 64
    """Grid vertices along each axis."""
    samples: int = 64
    """Samples of a ray across the unit sphere."""
    scale: float = SCALE
    """Classifier-free guidance scale, Form A (1 is conditional)."""
    anneal: Annotated[str, one_of(*ANNEALS)] = "linear"
    """How the noise level falls over the steps: uniform (does not), linear, sqrt, dreamtime."""
    sigma_max: float = 13.0
    """Noise level sigma = s/a at the first step."""
    sigma_init: float = 1.5
    """The same where the field starts from a shape (--init direct, a picture), which more noise would lose."""
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
    faces: Annotated[int, arg(aliases=("--faces",))] = 10000
    """Triangles kept by decimation."""
    keep: float = 0.02
    """Loose parts with a smaller share of the faces than this are dropped."""
    symmetry: Annotated[str, one_of(*SYMMETRIES), arg(aliases=("--symmetry",))] = "none"
    """x: cut the result at x = 0 and mirror the half with more surface, colours too."""


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
    surface: Annotated[str, one_of(*SURFACES)] = "mesh"
    """What moves: mesh (its vertices, which keep their topology) or tetrahedra (signed distances on a grid: holes open
    and close)."""
    grid: int = 64
    """Grid vertices along each axis, for tetrahedra."""
    rounds: int = 2
    """Rounds of remeshing and refining that the steps are divided into, coarse to fine."""
    faces_coarse: int = 8000
    """Triangles of the first round's mesh, about."""
    faces_fine: int = 10000
    """Triangles of the last round's mesh, about; --mesh.faces still holds for the result."""
    rate: float = 0.004
    """Root mean square of the vertices' first steps (world units)."""
    rate_end: float = 0.0005
    """The same of the last steps."""
    smoothness: float = 5.0
    """Lambda of the preconditioner I + lambda L: steps are smooth over about its square root in edges."""
    weight_bend: float = 200.0
    """Weight of 1 - cosine between the normals of neighbouring faces."""
    rate_color: float = 0.03
    """Adam's learning rate of the raw colour."""
    smooth_color: float = 0.5
    """Weight of the colour's squared total variation."""


@dataclass(frozen=True)
class DirectRecipe:
    """Method direct (and --init direct): frames sampled jointly, a visual hull, its vertices fitted to the frames."""

    views: int = 5
    """Frames sampled jointly: 4 or 8 at equal azimuth steps from the front, or 5: four, and one from above."""
    elevation: float = 15.0
    """Where they look from, in degrees upwards."""
    steps: int = STEPS
    """DDIM steps."""
    scale: float = SCALE
    """Classifier-free guidance scale, Form A."""
    guide_above: float = GUIDE_ABOVE
    """Noise level sigma under which guidance is left out: there it only sharpens the prior's own errors."""
    hull: int = 64
    """Grid vertices of the hull along each axis."""
    level: float = 0.4
    """Alpha at a silhouette's edge."""
    margin: float = 0.3
    """Pixels by which silhouettes grow before they carve."""
    outvoted: int = 0
    """Views that the others outvote: 0 keeps what all views see, 1 what all but one see."""
    relax: bool = True
    """Try wider margins and one more outvoted view; keep the hull whose silhouettes agree best with the frames."""
    rounds: int = 3
    """Rounds of remeshing and fitting, coarse to fine; 0 keeps the hull."""
    fit: int = 40
    """Steps a round that move the vertices."""
    faces_coarse: int = 2000
    """Triangles of the first round's mesh, about."""
    faces_fine: int = 8000
    """Triangles of the last round's mesh, about; --mesh.faces still holds for the result."""
    rate: float = 0.015
    """Root mean square of the vertices' first steps (world units)."""
    rate_end: float = 0.0005
    """The same of the last steps."""
    smoothness: float = 5.0
    """Lambda of the preconditioner I + lambda L: steps are smooth over about its square root in edges."""
    weight_alpha: float = 1.0
    """Weight of the absolute difference of alpha."""
    weight_normal: float = 1.0
    """Weight of the absolute difference of the normals."""
    weight_bend: float = 0.02
    """Weight of 1 - cosine between the normals of neighbouring faces."""
    sharpness: float = 4.0
    """Power of the cosine by which a view counts in the texture."""


@dataclass(frozen=True)
class FinishRecipe:
    """What the result looks like, whatever made it."""

    kind: Annotated[str, one_of(*FINISHES), arg(aliases=("--finish",))] = "smooth"
    """smooth: a baked texture. lowpoly: few flat faces, each of one colour from a small palette."""
    faces: int = 1000
    """lowpoly: triangles kept, or fewer where --mesh.faces is less."""
    colors: int = 10
    """lowpoly: colours of the palette at most."""
    patch: float = 0.01
    """lowpoly: about how wide (world units) a patch must be to have a colour of its own."""


@dataclass(frozen=True)
class TextureRecipe:
    """Stage 4: unwrap and bake."""

    size: Annotated[int, arg(aliases=("--texture-size",))] = 1024
    """Texels along each side of the atlas."""
    normals: bool = False
    """A normal map of the dense mesh, from before decimation, beside the base colour."""
    clean: bool = False
    """`polymode texture`: show the prior the mesh's normals without noise, instead of as noisy as the colours."""


@dataclass(frozen=True)
class ExportRecipe:
    """Files beside mesh.glb, which is always written."""

    format: Annotated[str, arg(aliases=("--format",), metavar=FORMAT_LIST)] = "glb"
    """Formats, separated by commas. stl and 3mf are closed, for printing; usdz needs the extra usd."""
    size: Annotated[str, arg(aliases=("--size",), metavar="LENGTH")] = "100mm"
    """The longest side in stl, 3mf and usdz: 80mm, 8cm, 0.08m or 3.15in."""


@dataclass(frozen=True)
class PictureRecipe:
    """What `polymode reconstruct` does with pictures."""

    background: Annotated[str, one_of(*BACKGROUNDS)] = "auto"
    """How the object is cut out: auto, alpha (its own transparency), key (a background of one colour), grabcut, rembg
    (needs that extra), none (the whole picture)."""
    azimuth: tuple[float, ...] = ()
    """Where each picture was taken from, in degrees: 0 the front, growing towards the object's +X side. Not given, the
    first is the front, and others are estimated."""
    elevation: tuple[float, ...] = ()
    """How far from above, in degrees. Not given, it is estimated."""
    rembg_model: str = ""
    """rembg: a local ONNX file, instead of its own model."""
    holes: str = "auto"
    """key: enclosed areas of the background's colour, such as in a mug's handle: cut, keep (white eyes on white), or
    auto, which cuts large, empty ones that cannot be told from an even background."""
    palette: float = 1.0
    """How far the colours of sampled views are drawn towards those of the picture: 0 not, 1 wholly."""
    weight_color: float = 4.0
    """Distillation: weight of the picture's colours, beside one frame's guidance."""
    weight_alpha: float = 8.0
    """Distillation: weight of the picture's silhouette."""
    weight_end: float = 0.5
    """Distillation: share of both that is left at the last step."""
    weight_view: float = 3.0
    """Direct: how many sampled views a picture counts as when vertices are fitted."""
    count: Annotated[int, Suppress] = 0
    """Pictures in the run's folder."""


@dataclass(frozen=True)
class Recipe:
    """All of a run: what config.yaml holds, and what repeats it."""

    prompt: Annotated[str, Suppress] = ""
    """What to make, in English; may be empty where there is a picture."""
    preset: Annotated[str, one_of(*PRESETS)] = "draft"
    """draft, standard or high: sets every number below that is not given."""
    prior: Annotated[str, arg(metavar="NAME|FOLDER")] = "embedded"
    """The diffusion prior: an alias of `polymode models list`, or a folder of exported weights."""
    method: Annotated[str, one_of(*NAMES)] = "sds"
    """The guidance method, or direct: the prior's samples fused in one pass."""
    init: Annotated[str, one_of(*INITS, more="FILE")] = "ball"
    """What a distillation grows from: ball (grey), direct (the direct method's result, --direct.* its numbers), or a
    mesh file of one's own, to whose place and scale the result is put back."""
    paint: Annotated[bool, Suppress] = False
    """`polymode texture`: the geometry of the mesh file `init` stays as it is, and is painted."""
    best_of: int = 1
    """Candidates, from seeds drawn from --seed; the best by fusion residual and the prior's own score is kept.
    Each costs a whole run up to the texture."""
    seed: int = 0
    """One integer that fans out to every random number of the run."""
    device: Annotated[str, one_of(*DEVICES)] = "auto"
    """auto, cpu or cuda."""
    precision: Annotated[str, one_of(*PRECISIONS)] = "float32"
    """Numbers in the prior's network: float32, or bfloat16, which takes two thirds of the time on processors that have
    it (AVX-512 BF16, AMX, recent GPUs), and more time on others."""
    guide: GuideRecipe = dataclasses.field(default_factory=GuideRecipe)
    methods: Annotated[Methods, arg(name="")] = dataclasses.field(default_factory=Methods)
    field: FieldRecipe = dataclasses.field(default_factory=FieldRecipe)
    mesh: MeshRecipe = dataclasses.field(default_factory=MeshRecipe)
    refine: RefineRecipe = dataclasses.field(default_factory=RefineRecipe)
    direct: DirectRecipe = dataclasses.field(default_factory=DirectRecipe)
    picture: Annotated[PictureRecipe, Suppress] = dataclasses.field(default_factory=PictureRecipe)
    texture: TextureRecipe = dataclasses.field(default_factory=TextureRecipe)
    export: ExportRecipe = dataclasses.field(default_factory=ExportRecipe)
    finish: FinishRecipe = dataclasses.field(default_factory=FinishRecipe)


def preset(name: str, prompt: str = "") -> Recipe:
    """The recipe of a preset. UsageError for a name that is none."""
    if name == "draft":
        return Recipe(prompt)
    if name == "standard":
        return Recipe(
            prompt,
            preset=name,
            field=FieldRecipe(steps=400, sets=2),
            mesh=MeshRecipe(resolution=128, faces=20000),
            refine=RefineRecipe(steps=200, sets=2, faces_fine=20000),
            texture=TextureRecipe(size=2048),
        )
    if name == "high":
        return Recipe(
            prompt,
            preset=name,
            field=FieldRecipe(steps=1000, sets=4, samples=96),
            mesh=MeshRecipe(resolution=160, faces=40000),
            refine=RefineRecipe(steps=500, sets=4, faces_fine=40000),
            texture=TextureRecipe(size=2048),
        )
    raise UsageError(f"Unknown preset {name!r}; choose {either(PRESETS)}.")


def picture_preset(name: str) -> Recipe:
    """The recipe of a preset for `polymode reconstruct`: direct, or distillation that starts from it and must not lose
    it."""
    r = preset(name)
    return dataclasses.replace(
        r,
        method=DIRECT,
        direct=dataclasses.replace(r.direct, scale=1.0, steps=4, views=8),
        field=dataclasses.replace(r.field, scale=2.0),
        refine=dataclasses.replace(r.refine, scale=2.0),
    )


def paint_preset(name: str) -> Recipe:
    """The recipe of a preset for `polymode texture`."""
    return dataclasses.replace(preset(name), method=DIRECT)


def tidied(recipe: Recipe) -> Recipe:
    """`recipe` with its prompts on one line, their spaces plain and single (app/text.py)."""
    guide = dataclasses.replace(recipe.guide, negative=tidy(recipe.guide.negative))
    return dataclasses.replace(recipe, prompt=tidy(recipe.prompt), guide=guide)


def check(recipe: Recipe) -> None:
    """UsageError, in one sentence, for anything that could not run."""
    prompt = recipe.prompt
    if not visible(prompt) and (prompt or not recipe.picture.count):
        raise UsageError('The prompt is empty; say what to make, for instance "a red mushroom".')
    for text, what in ((prompt, "prompt"), (recipe.guide.negative, "negative prompt")):
        if len(text) > MAX_PROMPT:
            raise UsageError(f"The {what} has {len(text)} characters; the limit is {MAX_PROMPT}, so shorten it.")
        if control(text):
            raise UsageError(f"The {what} contains control characters; use plain text on one line.")
    for value, allowed, what in (
        (recipe.preset, PRESETS, "preset"),
        (recipe.method, NAMES, "method"),
        (recipe.device, DEVICES, "device"),
        (recipe.precision, PRECISIONS, "precision"),
        (recipe.field.anneal, ANNEALS, "anneal"),
        (recipe.refine.surface, SURFACES, "surface"),
        (recipe.mesh.symmetry, SYMMETRIES, "symmetry"),
        (recipe.finish.kind, FINISHES, "finish"),
        (recipe.guide.weight, WEIGHT_NAMES, "weight"),
        (recipe.picture.background, BACKGROUNDS, "background"),
        (recipe.picture.holes, HOLES, "choice of holes"),
        (recipe.guide.cfg.kind, CFG_KINDS, "kind of classifier-free guidance"),
        (recipe.methods.fdistill.divergence, DIVERGENCES, "divergence"),
    ):
        if value not in allowed:
            raise UsageError(f"Unknown {what} {value!r}; choose {either(allowed)}.")
    if recipe.init not in INITS and not is_mesh_name(recipe.init):
        raise UsageError(f"Unknown init {recipe.init!r}; choose {either(INITS)}, or a mesh file ({KINDS}).")
    if recipe.init not in INITS and (recipe.finish.kind != "smooth" or recipe.mesh.symmetry != "none"):
        raise UsageError(
            "A mesh of your own keeps its surface: leave --finish lowpoly and --symmetry x out, or start without it."
        )
    if recipe.paint and (recipe.init in INITS or recipe.picture.count):
        raise UsageError("What is painted is a mesh file; give one, and no pictures.")
    if recipe.method == DIRECT and recipe.init != "ball" and not recipe.paint:
        raise UsageError("--method direct starts from nothing; leave --init out, or choose another method.")
    g = recipe.guide
    if recipe.method != DIRECT and g.cfg.kind == "perp-neg" and not g.view_words and not visible(g.negative):
        raise UsageError("Perp-Neg pushes away from something; give --guide.negative, or --guide.view-words.")
    if recipe.picture.count and (recipe.guide.blind_camera or recipe.guide.view_words):
        raise UsageError("A picture needs a prior that knows cameras; leave --guide.blind-camera and view-words out.")
    parse_formats(recipe.export.format)
    parse_size(recipe.export.size)
    check_numbers(recipe)
    if recipe.direct.views not in (4, 5, 8):
        raise UsageError(f"--direct.views {recipe.direct.views} is not possible; use 4, 5 or 8.")
    if recipe.direct.outvoted >= recipe.direct.views:
        raise UsageError("--direct.outvoted must be less than --direct.views; make it less.")
