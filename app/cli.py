"""The command line: `polymode generate`, `reconstruct`, `batch`, `compare`, `evaluate`, `jobs`, `serve`,
`models list`, `doctor`. Flags come from the dataclasses of app/recipes.py."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import tyro

from app import STARTED
from app.batch.options import Batch
from app.compare.options import Compare
from app.errors import FULL, NO_MEMORY, OUT_OF_MEMORY, REFUSED, DiskError, UsageError, UserError, out_of_memory
from app.evaluate.options import Evaluate
from app.jobs.options import Jobs
from app.recipes import PictureRecipe, Recipe, check, load_recipe, picture_preset, preset, tidied
from app.streams import flushed, ignore_hangup, outlive
from app.text import to_json
from app.web.options import Serve

if TYPE_CHECKING:
    from app.run.folder import Run
    from app.run.work import Clock


@dataclass(frozen=True)
class Generate:
    """Turn a prompt into a textured GLB, a turntable and a contact sheet, in a run folder of their own."""

    prompt: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PROMPT")] = ""
    """What to make, in English."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)
    out: Path | None = None
    """The run folder: new or empty. Default: runs/PROMPT-TIME."""
    resume: Path | None = None
    """Continue the run in this folder with its own config.yaml; other flags are not allowed beside it."""
    json: bool = False
    """Print the result, or the error, as one JSON object on stdout."""


@dataclass(frozen=True)
class Reconstruct:
    """Turn one picture of an object, or several, into a textured GLB, a turntable and a contact sheet."""

    pictures: tyro.conf.Positional[tuple[Path, ...]]
    """PNG, JPEG, WebP, AVIF or HEIC files of one object. The first is the front."""
    prompt: str = ""
    """What it is, in English; may be left out."""
    options: Annotated[PictureRecipe, tyro.conf.arg(name="")] = field(default_factory=PictureRecipe)
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=lambda: picture_preset("draft"))
    out: Path | None = None
    """The run folder: new or empty. Default: runs/PROMPT-TIME, or runs/PICTURE-TIME. `polymode generate --resume`
    continues it."""
    json: bool = False
    """Print the result, or the error, as one JSON object on stdout."""


@dataclass(frozen=True)
class Models:
    """What priors there are, their licence, and whether their weights are on disk."""

    action: tyro.conf.Positional[Literal["list"]] = "list"
    """list: the table."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Doctor:
    """Check this machine: packages, kernels, weights, video encoder. Exit code 3 if something needed is missing."""

    compile: bool = False
    """Only compile the CPU kernels (part of set-up)."""


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
    clock = ready(recipe)
    return finish(recipe, run or create_run(recipe, a.out), clock, a.json)


def run_reconstruct(a: Reconstruct) -> int:
    from app.reconstruct import picture_recipe, prepare

    recipe = dataclasses.replace(a.recipe, prompt=a.prompt, picture=a.options)
    recipe = picture_recipe(recipe, len(a.pictures))
    clock = ready(recipe)
    with clock.part("pictures_in"):
        run = prepare(a.pictures, recipe, a.out)
    return finish(recipe, run, clock, a.json)


def ready(recipe: Recipe) -> Clock:
    """Refuse what cannot run before anything is written. The run's clock."""
    from app.models import require
    from app.run.work import Clock, choose_device

    clock = Clock(began=STARTED)
    clock.parts["imports"] = time.perf_counter() - STARTED
    choose_device(recipe.device)
    require(recipe.prior)
    return clock


def finish(recipe: Recipe, run: Run, clock: Clock, as_json: bool) -> int:
    """Run it, and say what came out."""
    from app.jobs.foreground import foreground
    from app.pipeline import generate
    from app.run.progress import Progress
    from app.run.work import folder_of

    progress = Progress()
    progress.say(f"Run folder: {run.folder}")
    with foreground(run, recipe):
        result = generate(recipe, run, progress, clock)
    files = folder_of(run)
    if as_json:
        _emit({"status": "done", "folder": str(run.folder), "files": files, "metadata": result})
    else:
        m = result["mesh"]
        sys.stdout.write(
            f"{files['mesh.glb']}  ({m['faces']} triangles, {result['seconds']['total']:.0f} s, "
            f"{result['peak_memory_mb']} MB)\n{files['turntable.mp4']}\n{files['contact_sheet.png']}\n"
        )
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
    findings = examine()
    for f in findings:
        sys.stdout.write(f"{'ok  ' if f.ok else '    ' if f.ok is None else 'MISSING '}{f.text}\n")
    return 3 if any(f.ok is False for f in findings) else 0


def default_recipe(argv: list[str], of: Callable[[str], Recipe]) -> Recipe:
    """The preset's recipe, by `of`, so that --preset sets the defaults of the flags beside it."""
    name = "draft"
    for i, word in enumerate(argv):
        if word == "--preset" and i + 1 < len(argv):
            name = argv[i + 1]
        elif word.startswith("--preset="):
            name = word.split("=", 1)[1]
    return of(name)


def parse(argv: list[str]) -> Generate | Reconstruct | Batch | Compare | Evaluate | Jobs | Serve | Models | Doctor:
    generate, reconstruct = Generate(), Reconstruct(())
    if argv[:1] == ["generate"]:
        generate = Generate(recipe=default_recipe(argv, preset))
    if argv[:1] == ["reconstruct"]:
        reconstruct = Reconstruct((), recipe=default_recipe(argv, picture_preset))
    kind = (
        Annotated[Generate, tyro.conf.subcommand("generate", default=generate)]
        | Annotated[Reconstruct, tyro.conf.subcommand("reconstruct", default=reconstruct)]
        | Annotated[Batch, tyro.conf.subcommand("batch")]
        | Annotated[Compare, tyro.conf.subcommand("compare")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Jobs, tyro.conf.subcommand("jobs")]
        | Annotated[Serve, tyro.conf.subcommand("serve")]
        | Annotated[Models, tyro.conf.subcommand("models")]
        | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    )
    return tyro.cli(kind, args=argv, prog="polymode")  # pyright: ignore[reportReturnType, reportCallIssue, reportArgumentType]


def main(argv: list[str] | None = None) -> NoReturn:
    """Entry point of the `polymode` command. Exits with the codes of docs/conventions.md."""
    outlive()
    argv = sys.argv[1:] if argv is None else argv
    as_json = "--json" in argv
    try:
        a = parse(argv)
        if not isinstance(a, Serve):  # what a run costs is lost with its terminal; a page can be started again
            ignore_hangup()
        if isinstance(a, Generate):
            code = run_generate(a)
        elif isinstance(a, Reconstruct):
            code = run_reconstruct(a)
        elif isinstance(a, Batch):
            from app.batch.command import run_batch

            code = run_batch(a)
        elif isinstance(a, Compare):
            from app.compare.command import run_compare

            code = run_compare(a)
        elif isinstance(a, Evaluate):
            from app.evaluate.command import run_evaluate

            code = run_evaluate(a)
        elif isinstance(a, Jobs):
            from app.jobs.command import run_jobs

            code = run_jobs(a)
        elif isinstance(a, Serve):
            from app.web.serve import run_serve

            code = run_serve(a)
        elif isinstance(a, Models):
            code = run_models(a)
        else:
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
