"""The run folder: config.yaml, metadata.json, events.jsonl, checkpoints/, previews/, and the outputs beside them.

Files are written to a temporary name and renamed, so a reader never sees half of one. Nothing that was not written by
the run is ever touched. One seed fans out to named generators.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import FULL, DiskError, UsageError
from app.export.size import FORMATS
from app.recipe_yaml import to_yaml
from app.recipes import Recipe
from app.text import quoted, slug, to_json
from guidance.tensors import read_tensors

if TYPE_CHECKING:  # torch takes a second to import; a list of runs needs none of it
    import torch
    from torch import Tensor

REPORT = "mesh.report.json"
MESHES = tuple(f"mesh.{kind}" for kind in FORMATS)
OUTPUTS = (
    *MESHES,
    "mesh.mtl",
    "mesh.png",
    "mesh-normals.png",
    REPORT,
    "turntable.mp4",
    "contact_sheet.png",
    "metadata.json",
    "config.yaml",
)
STREAMS = ("init", "camera", "time", "noise", "jitter")


def generators(seed: int) -> dict[str, torch.Generator]:
    """One CPU generator a purpose, each seeded from (seed, name): drawing more of one does not shift another."""
    import torch

    result = {}
    for name in STREAMS:
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        result[name] = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return result


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, remove it otherwise."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def previews(self) -> Path:
        return self.folder / "previews"

    @property
    def pictures(self) -> Path:
        """What a reconstruction starts from; made when the first is written."""
        return self.folder / "pictures"

    @property
    def start(self) -> Path:
        """The mesh of one's own that it starts from, and what was read of it; made when it is stored."""
        return self.folder / "start"

    @property
    def candidates(self) -> Path:
        """Thumbnails of --best-of; made when the first is written."""
        return self.folder / "candidates"

    def write_text(self, name: str, text: str) -> None:
        with atomic(self.folder / name) as path:
            path.write_text(text, encoding="utf-8", errors="surrogateescape")

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, to_json(value) + "\n")

    def event(self, kind: str, **values: Any) -> None:
        """Append one line to events.jsonl, with the wall time (for people and plots; nothing reads it back)."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **values})
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def save_checkpoint(self, stage: str, tensors: dict[str, Tensor], step: int) -> None:
        from safetensors.torch import save_file

        with atomic(self.checkpoints / f"{stage}.safetensors") as path:
            contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            save_file(contiguous, path, metadata={"step": str(step)})

    def load_checkpoint(self, stage: str) -> tuple[dict[str, Tensor], int] | None:
        """(tensors, step), or None where the stage has none. UsageError if the file is damaged."""
        path = self.checkpoints / f"{stage}.safetensors"
        if not path.is_file():
            return None
        try:
            tensors, metadata = read_tensors(path)
            return tensors, int(metadata["step"])
        except Exception as e:
            raise UsageError(f"The checkpoint {path} is damaged ({e}); remove it to redo its stage.") from e


def create_run(recipe: Recipe, out: Path | None, name: str = "") -> Run:
    """A new folder with config.yaml in it, called after the prompt, or `name`. UsageError if `out` holds anything
    already, or cannot be written; DiskError on a full disk."""
    named = f"{slug(recipe.prompt or name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    asked, out, n = out, out or Path("runs") / named, 1
    try:
        while asked is None and out.exists():
            n += 1
            out = Path("runs") / f"{named}-{n}"
        if out.exists() and not out.is_dir():
            raise UsageError(f"The output {out} is a file; give a new folder with --out.")
        if out.is_dir() and any(out.iterdir()):
            raise UsageError(
                f"The output folder {out} is not empty; give a new one with --out, or continue it with --resume "
                f"{quoted(out)}."
            )
        run = Run(out)
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        run.previews.mkdir(exist_ok=True)
        run.write_text("config.yaml", to_yaml(recipe))
    except OSError as e:
        raise (DiskError if e.errno in FULL else UsageError)(
            f"The output folder {out} cannot be written ({e.strerror}); choose another with --out."
        ) from e
    return run
