"""`polymode export` and `polymode inspect`. One bad input never takes the others along."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.errors import UsageError, as_user_error
from app.export.size import parse_formats, parse_size, require_formats
from app.meshes.options import Export, Inspect
from app.recipe_yaml import load_recipe
from app.recipes import Recipe, check
from app.run.folder import atomic
from app.startup import loading
from app.text import plainly, to_json


@dataclass
class Outcome:
    """What became of one input."""

    input: str
    state: str = "done"
    files: dict[str, str] = field(default_factory=dict)
    report: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    error: str = ""
    exit_code: int = 0

    def refuse(self, e: Exception) -> None:
        told = as_user_error(UsageError(str(e)) if isinstance(e, ValueError) else e)
        self.state, self.exit_code = "failed", self.exit_code or told.exit_code
        self.error = f"{self.error} {told}".strip()


@dataclass(frozen=True)
class Source:
    """An input: a mesh file, or a run with its recipe; `finished`: its mesh.glb is there."""

    path: Path
    recipe: Recipe | None = None
    finished: bool = False

    def size(self, asked: str) -> float | None:
        """Millimetres of the longest side; None is the file's own."""
        if asked:
            return parse_size(asked)
        return None if self.recipe is None else parse_size(self.recipe.export.size)


def source(path: Path) -> Source:
    """UsageError for a folder that is no run."""
    if not path.is_dir():
        return Source(path)
    finished = (path / "mesh.glb").is_file()
    if not (path / "config.yaml").is_file():
        if finished:
            return Source(path, Recipe(), True)
        raise UsageError(f"{path} is no run folder (no config.yaml); give a run folder or a mesh file.")
    recipe = load_recipe(path / "config.yaml")
    check(recipe)
    return Source(path, recipe, finished)


def mesh_of(s: Source) -> Any:
    """Its TexturedMesh. UserError for what has none."""
    from app.export.read import read_textured

    if s.recipe is None:
        return read_textured(s.path)
    if s.finished:
        return read_textured(s.path / "mesh.glb")
    from app.meshes.unfinished import unfinished_mesh

    return unfinished_mesh(s.path, s.recipe)


def run_export(a: Export) -> int:
    """Returns 0, the exit code that all inputs failed with, or 1 where some did."""
    formats = parse_formats(a.format)
    if a.size:
        parse_size(a.size)
    require_formats(formats)
    some(a.inputs)
    if a.out is not None:
        a.out.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    outcomes = []
    with loading():
        import app.export.formats  # noqa: F401
    for path in a.inputs:
        outcome = Outcome(str(path))
        try:
            export_one(a, source(path), formats, outcome, taken)
        except Exception as e:  # an input never takes the others along
            outcome.refuse(e)
        outcomes.append(outcome)
        if not a.json:
            for file in outcome.files.values():
                sys.stdout.write(f"{plainly(file)}\n")
            tell(outcome)
    return finish(outcomes, a.json)


def some(inputs: Sequence[Path]) -> None:
    if not inputs:
        raise UsageError("There is nothing to read; give run folders or mesh files.")


def export_one(a: Export, s: Source, formats: Sequence[str], outcome: Outcome, taken: set[str]) -> None:
    """Write one input in every format, and its report; what cannot be written is the outcome's error."""
    from app.export.formats import files_of, write
    from app.export.report import as_json, report
    from app.stages.asset import origin

    inside = s.recipe is not None and a.out is None
    folder = a.out or (s.path if inside else s.path.parent)
    own = "mesh" if s.finished else "unfinished"
    stem = own if inside else s.path.resolve().name if s.recipe is not None else s.path.stem
    stem = unused(stem, taken) if a.out is not None else stem
    size = s.size(a.size)
    targets = {kind: folder / f"{stem}.{kind}" for kind in formats}
    beside = folder / f"{stem}.report.json"
    for target in [f for t in targets.values() for f in files_of(t)] + [beside]:
        mine = target.exists() and s.path.exists() and target.resolve() == s.path.resolve()
        if mine or (target.exists() and not inside and not a.overwrite):
            more = "" if mine else ", or --overwrite"
            raise UsageError(f"{target} exists; give another --out{more}.")
    mesh = mesh_of(s)
    extras = origin(s.recipe) if s.recipe is not None and s.recipe.prompt else None
    for kind, target in targets.items():
        try:
            if not (inside and s.finished and kind == "glb"):  # it is there, as the run wrote it
                took = write(target, mesh, size, extras)
                outcome.notes += [f"{target.name}: {took}"] if took else []
            outcome.files[kind] = str(target)
        except Exception as e:
            outcome.refuse(e if str(target.name) in str(e) else UsageError(f"{target.name}: {e}"))
    measured = report(mesh, size)
    outcome.report = as_json(measured)
    outcome.notes += measured.warnings
    with atomic(beside) as draft:
        draft.write_text(to_json(outcome.report) + "\n", encoding="utf-8")
    outcome.files["report"] = str(beside)


def unused(stem: str, taken: set[str]) -> str:
    """`stem`, with a number where another input of this call has it already."""
    name, n = stem, 1
    while name in taken:
        n += 1
        name = f"{stem}-{n}"
    taken.add(name)
    return name


def run_inspect(a: Inspect) -> int:
    """Returns 0, the exit code that all inputs failed with, or 1 where some did."""
    if a.size:
        parse_size(a.size)
    some(a.inputs)
    with loading():
        from app.export.report import as_json, report, rows
    outcomes = []
    for path in a.inputs:
        outcome = Outcome(str(path))
        outcomes.append(outcome)
        try:
            s = source(path)
            measured = report(mesh_of(s), s.size(a.size))
        except Exception as e:
            outcome.refuse(e)
            if not a.json:
                tell(outcome)
            continue
        outcome.report, outcome.notes = as_json(measured), list(measured.warnings)
        if not a.json:
            sys.stdout.write(f"{plainly(str(path))}\n")
            sys.stdout.write("".join(f"  {what:<22} {value}\n" for what, value in rows(measured)))
            sys.stdout.write("".join(f"  ! {w}\n" for w in measured.warnings))
    return finish(outcomes, a.json)


def tell(outcome: Outcome) -> None:
    for note in outcome.notes:
        sys.stderr.write(f"{plainly(outcome.input)}: {plainly(note)}\n")
    if outcome.error:
        sys.stderr.write(f"polymode: {plainly(outcome.error)}\n")


def finish(outcomes: Sequence[Outcome], as_json: bool) -> int:
    """Print JSON where it was asked for; the exit code."""
    bad = [o for o in outcomes if o.exit_code]
    code = 0 if not bad else bad[0].exit_code if len(bad) == len(outcomes) else 1
    if as_json:
        status = "done" if not bad else "error" if len(bad) == len(outcomes) else "partial"
        value = {"status": status, "exit_code": code, "meshes": [dataclasses.asdict(o) for o in outcomes]}
        sys.stdout.write(to_json(value, encoding=sys.stdout.encoding) + "\n")
    return code
