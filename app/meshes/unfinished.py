"""The mesh of a run that was interrupted: every stage as its checkpoint has it, without a further step.

The pipeline itself is run over a folder of links to the checkpoints and pictures, so that nothing of the run is
touched, and it can be continued.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.candidates import Shape, candidate_seeds
from app.errors import UsageError
from app.export.glb import TexturedMesh
from app.methods import DIRECT
from app.models import load_prior
from app.pipeline import candidate, references
from app.recipes import Recipe
from app.run.folder import Run
from app.run.progress import Progress
from app.run.work import Clock, Work, choose_device
from app.stages.asset import finished
from app.stages.mirror import mirror
from app.text import quoted


def unfinished_mesh(folder: Path, recipe: Recipe) -> TexturedMesh:
    """The mesh as far as it came; of --best-of, the first candidate. UsageError, one sentence, for a run that was
    stopped before it had one."""
    with as_it_is(folder, recipe) as (job, shape):
        return finished(job, mirror(job, shape)[0]).mesh


@contextmanager
def as_it_is(folder: Path, recipe: Recipe) -> Iterator[tuple[Work, Shape]]:
    """The run as its checkpoints have it, and its shape before it is finished and unwrapped. UsageError as above."""
    first = "sample" if DIRECT in (recipe.method, recipe.init) else "field"
    try:
        if not (folder / "checkpoints" / f"{first}.safetensors").is_file():
            raise UsageError("")
        with tempfile.TemporaryDirectory() as temporary:
            run = Run(Path(temporary))
            for name in ("checkpoints", "pictures"):
                if (folder / name).is_dir():
                    (run.folder / name).symlink_to((folder / name).resolve(), target_is_directory=True)
            run.previews.mkdir()
            device = choose_device(recipe.device)
            prior = load_prior(recipe.prior, device, recipe.precision)
            quiet = Progress(quiet=True)
            job = Work(recipe, run, quiet, Clock(), lambda: False, prior, device, as_it_is=True)
            if recipe.picture.count:
                job.references = references(job)
            shape = candidate(job, 0, candidate_seeds(recipe.seed, 1)[0]).shape
            assert shape is not None
            yield job, shape
    except UsageError as e:
        if str(e) and "before it had a mesh" not in str(e):
            raise
        raise UsageError(
            f"The run {folder} was stopped before it had a mesh; continue it with `polymode generate --resume "
            f"{quoted(folder)}`."
        ) from e
