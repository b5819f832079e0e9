"""The `polymode` command: runs what app/commands.py parsed, and says what came out. Exit codes as in
docs/conventions.md."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from app import STARTED
from app.commands import (
    Batch,
    Compare,
    Doctor,
    Evaluate,
    Generate,
    Jobs,
    Models,
    Reconstruct,
    Serve,
    Texture,
    Train,
    parse,
)
from app.errors import FULL, NO_MEMORY, OUT_OF_MEMORY, REFUSED, DiskError, UsageError, UserError, out_of_memory
from app.export.mesh_files import check_file
from app.meshes.options import Export, Inspect
from app.recipe_yaml import load_recipe
from app.recipes import INITS, Recipe, check, preset, tidied
from app.startup import carry_out, loading, ready
from app.streams import flushed, ignore_hangup, outlive
from app.text import to_json

if TYPE_CHECKING:
    from app.run.folder import Run
    from app.run.work import Clock


TOLD = ("metadata.json", "config.yaml")  # files that are there after every run, and need no mention


def _emit(value: Any) -> None:
    sys.stdout.write(to_json(value, encoding=sys.stdout.encoding) + "\n")


def run_generate(a: Generate) -> int:
    from app.jobs.state import finished
    from app.run.folder import Run, create_run

    if a.resume is not None:
        if a.prompt or a.out is not None or a.recipe != preset(a.recipe.preset):
            raise UsageError(
                "--resume continues a run as it was configured; give no prompt and no other settings beside it."
            )
        recipe = load_recipe(a.resume / "config.yaml")
        check(recipe)
        run = Run(a.resume)
        if finished(run.folder):
            raise UsageError(f"The run in {a.resume} is finished; there is nothing to resume.")
        if not run.checkpoints.is_dir() or not run.previews.is_dir():
            raise UsageError(f"{a.resume} is not a run folder (checkpoints/ or previews/ is missing).")
    else:
        recipe = tidied(dataclasses.replace(a.recipe, prompt=a.prompt))
        check(recipe)
        run = None
        if recipe.init not in INITS:
            return run_from_mesh(recipe, a.out, a.json)
    clock = begin(recipe)
    return finish(recipe, run or create_run(recipe, a.out), clock, a.json)


def run_texture(a: Texture) -> int:
    recipe = tidied(dataclasses.replace(a.recipe, prompt=a.prompt, init=str(a.mesh), paint=True))
    if a.recipe.init != "ball":
        raise UsageError("What is painted is the mesh that is named first; leave --init out.")
    check_file(a.mesh)
    check(recipe)
    return run_from_mesh(recipe, a.out, a.json)


def run_from_mesh(recipe: Recipe, out: Path | None, as_json: bool) -> int:
    """A run that starts from the mesh file `recipe.init`."""
    check_file(Path(recipe.init))  # before torch loads
    clock = begin(recipe)
    with clock.part("mesh_in"):
        from app.own_mesh import prepare

        run = prepare(recipe, out)
    return finish(recipe, run, clock, as_json)


def run_reconstruct(a: Reconstruct) -> int:
    from app.reconstruct import picture_recipe, prepare

    recipe = dataclasses.replace(a.recipe, prompt=a.prompt, picture=a.options)
    recipe = picture_recipe(recipe, len(a.pictures))
    clock = begin(recipe)
    with clock.part("pictures_in"):
        run = prepare(a.pictures, recipe, a.out)
    return finish(recipe, run, clock, a.json)


def begin(recipe: Recipe) -> Clock:
    """Load what the run needs, in a process that is there for it alone."""
    with loading():
        return ready(recipe, STARTED)


def finish(recipe: Recipe, run: Run, clock: Clock, as_json: bool) -> int:
    """Run it, and say what came out."""
    from app.run.progress import Progress
    from app.run.work import folder_of

    result = carry_out(recipe, run, clock, Progress())
    files = folder_of(run)
    if as_json:
        _emit({"status": "done", "folder": str(run.folder), "files": files, "metadata": result})
    else:
        m = result["mesh"]
        sys.stdout.write(
            f"{files['mesh.glb']}  ({m['faces']} triangles, {result['seconds']['total']:.0f} s, "
            f"{result['peak_memory_mb']} MB)\n"
        )
        shown = [
            p for n, p in files.items() if n not in ("mesh.glb", "mesh.mtl", "mesh.png", "mesh-normals.png", *TOLD)
        ]
        sys.stdout.write("".join(f"{p}\n" for p in shown))
    return 0


def run_models(a: Models) -> int:
    from app.models import known_models

    rows = [{"alias": m.alias, "state": m.state(), "licence": m.licence, "what": m.what} for m in known_models()]
    if a.json:
        _emit(rows)
        return 0
    for r in rows:
        sys.stdout.write(f"{r['alias']:<10} {r['licence']:<11} {r['what']}\n{'':<10} {r['state']}\n")
    return 0


def run_doctor(a: Doctor) -> int:
    from app.doctor import compile_everything, examine

    if a.compile:
        compile_everything()
        return 0
    missing = 0
    for f in examine():
        sys.stdout.write(f"{'ok  ' if f.ok else '    ' if f.ok is None else 'MISSING '}{f.text}\n")
        sys.stdout.flush()
        missing += f.ok is False
    return 3 if missing else 0


def main(argv: list[str] | None = None) -> NoReturn:
    """Entry point of the `polymode` command. Exits with the codes of docs/conventions.md."""
    outlive()
    argv = sys.argv[1:] if argv is None else argv
    as_json = "--json" in argv
    try:
        a = parse(argv)
        if not isinstance(a, Serve):  # what a run costs is lost with its terminal; a page can be started again
            ignore_hangup()
        if isinstance(a, str):
            sys.stdout.write(a)
            code = 0
        elif isinstance(a, Generate):
            code = run_generate(a)
        elif isinstance(a, Reconstruct):
            code = run_reconstruct(a)
        elif isinstance(a, Texture):
            code = run_texture(a)
        elif isinstance(a, Batch):
            from app.batch.command import run_batch

            code = run_batch(a)
        elif isinstance(a, Compare):
            from app.compare.command import run_compare

            code = run_compare(a)
        elif isinstance(a, Evaluate):
            from app.evaluate.command import run_evaluate

            code = run_evaluate(a)
        elif isinstance(a, Train):
            from app.training.command import run_train

            code = run_train(a)
        elif isinstance(a, Export):
            from app.meshes.command import run_export

            code = run_export(a)
        elif isinstance(a, Inspect):
            from app.meshes.command import run_inspect

            code = run_inspect(a)
        elif isinstance(a, Jobs):
            from app.jobs.command import run_jobs

            code = run_jobs(a)
        elif isinstance(a, Serve):
            from app.web.serve import run_serve

            code = run_serve(a)
        elif isinstance(a, Models):
            code = run_models(a)
        else:
            assert isinstance(a, Doctor)
            code = run_doctor(a)
    except SystemExit as e:  # a help text, or flags that tyro refuses
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except UserError as e:
        code = fail(str(e), e.exit_code, as_json)
    except KeyboardInterrupt:
        code = fail("Interrupted.", 130, as_json)
    except OSError as e:
        if e.errno not in (*REFUSED, *FULL) or e.filename is None:
            raise
        kind = DiskError if e.errno in FULL else UsageError
        code = fail(f"{e.filename} cannot be used ({e.strerror}); choose another.", kind.exit_code, as_json)
    except (MemoryError, RuntimeError) as e:
        if not out_of_memory(e):
            raise
        code = fail(NO_MEMORY, OUT_OF_MEMORY, as_json)
    if (lost := flushed()) and not code:
        code = fail(f"The output cannot be written ({lost.strerror}); send it elsewhere.", DiskError.exit_code, False)
    sys.exit(code)


def fail(sentence: str, code: int, as_json: bool) -> int:
    if as_json:
        _emit({"status": "error", "exit_code": code, "error": sentence})
    sys.stderr.write(f"polymode: {' '.join(sentence.splitlines())}\n")
    return code


if __name__ == "__main__":
    main()
