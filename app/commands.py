"""The commands: what each takes, its short help, and an argv parsed into one of them.

Flags come from dataclasses: those of a run from app/recipes.py, those of a command from its own options.py. Nothing
here imports torch: help, completion and refusals are there at once.
"""

from __future__ import annotations

import contextlib
import io
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from app import choices
from app.batch.options import Batch
from app.compare.options import Compare
from app.errors import UsageError
from app.evaluate.options import Evaluate
from app.jobs.options import Jobs
from app.recipes import PictureRecipe, Recipe, picture_preset, preset
from app.training.options import Train
from app.usage import Page, overview, page
from app.web.options import Serve


@dataclass(frozen=True)
class Generate:
    """Turn a prompt into a textured GLB, a turntable and a contact sheet, in a run folder of their own."""

    prompt: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PROMPT")] = ""
    """What to make, in English."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """The run folder: new or empty. Default: runs/PROMPT-TIME."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Continue the run in this folder with its own config.yaml; other flags are not allowed beside it."""
    json: bool = False
    """Print the result, or the error, as one JSON object on stdout."""


@dataclass(frozen=True)
class Reconstruct:
    """Turn one picture of an object, or several, into a textured GLB, a turntable and a contact sheet."""

    pictures: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PICTURE")]
    """PNG, JPEG, WebP, AVIF or HEIC files of one object. The first is the front."""
    prompt: str = ""
    """What it is, in English; may be left out."""
    options: Annotated[PictureRecipe, tyro.conf.arg(name="")] = field(default_factory=PictureRecipe)
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=lambda: picture_preset("draft"))
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
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


@dataclass(frozen=True)
class Completion:
    """Print a script that completes commands, flags and choices when Tab is pressed."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """The shell that it is for."""


Command = Generate | Reconstruct | Batch | Compare | Evaluate | Train | Jobs | Serve | Models | Doctor | Completion

CLEARER = (  # tyro's words, and ours
    (r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)", r"\1 takes a whole number, not \2"),
    (r"Error parsing (\S+): could not convert string to float: (.*)", r"\1 takes a number, not \2"),
    (r"invalid choice (.*) for argument '(.*)'\. Expected one of \((.*)\)", r"\2 is one of \3, not \1"),
    (r"Missing value for argument '(.*)'.*", r"\1 needs a value"),
    (r"Unrecognized options: ([^-].*)", r"There is no place for: \1; put words that belong together in quotes"),
    (r"Unrecognized options: (.*)", r"There is no option \1"),
)
RUN = ("preset", "method", "seed", "init", "best_of", "guide.negative")
RESULT = ("finish.kind", "mesh.faces", "mesh.symmetry", "texture.size", "prior", "device", "precision")


def recipe_paths(*names: str) -> tuple[str, ...]:
    """As fields of a command that has a `recipe`."""
    return tuple(f"recipe.{n}" for n in names)


def pages(argv: list[str]) -> dict[str, Page]:
    """Every command's short help, with the defaults of the preset that `argv` names."""
    priors = {"recipe.prior": f"{prior_choices()}, or a folder of exported weights; see `polymode models list`."}
    every = (
        Page(
            "generate",
            Generate,
            Generate(recipe=named_preset(argv, preset)),
            ("prompt", "out", *recipe_paths(*RUN, *RESULT), "resume", "json"),
            (
                ('"a wooden barrel"', "score distillation, half a minute"),
                ('"a wooden barrel" --method direct', "one pass, a quarter of a minute"),
                ('"a wooden barrel" --method direct --best-of 4 --seed 7', "the best of four"),
                ('"a wooden barrel" --faces 2000 --texture-size 512 --out barrel', "a small asset, in barrel/"),
                ("--resume barrel", "go on after Ctrl-C or a crash"),
            ),
            priors,
        ),
        Page(
            "reconstruct",
            Reconstruct,
            Reconstruct((), recipe=named_preset(argv, picture_preset)),
            (
                *("pictures", "prompt", "out", "options.background", "options.azimuth", "options.elevation"),
                *recipe_paths("preset", "method", "seed", "best_of", "guide.negative", *RESULT),
                "json",
            ),
            (
                ("photo.jpg", "the object in one picture"),
                ("front.png side.png --azimuth 0 90", "two pictures, and where they were taken from"),
                ('photo.jpg --prompt "a red mushroom"', "say what it is"),
                ("photo.jpg --background key", "the background has one colour"),
                ("photo.jpg --method sds", "grow it on by score distillation"),
            ),
            priors,
        ),
        Page(
            "batch",
            Batch,
            None,
            (),
            (
                ("prompts.jsonl --out many", "every line of the file; again, it goes on where it stopped"),
                ("prompts.jsonl --out many --workers 2", "two runs at once"),
            ),
        ),
        Page(
            "compare",
            Compare,
            None,
            (
                *("prompts", "out", "methods", "seeds", "space", "blind_camera", "workers", "prior", "init"),
                *("reference", "guide.negative", "mesh.faces", "device", "precision", "json"),
            ),
            (
                ('"a key" --methods sds,dsd', "two methods on four seeds, in pixels"),
                ('"a key" "a chair" --space 3d --seeds 2', "all methods, as drafts in 3D"),
            ),
        ),
        Page(
            "evaluate",
            Evaluate,
            None,
            (),
            (
                ("runs --out report", "every finished run in the folder"),
                ("prior --count 20", "the prior's own samples"),
            ),
        ),
        Page(
            "train",
            Train,
            None,
            ("data", "out", "init", "device", "minutes", "steps", "channels", "batch", "seed", "json"),
            (
                ("--data meshes --out mine --minutes 600", "from nothing, overnight"),
                ("--data meshes --out mine --init embedded", "from what ships, half an hour"),
                ("--data meshes --out mine --device cuda", "on a GPU"),
            ),
        ),
        Page("jobs", Jobs, None, (), (("", "the table"), ("cancel ID", "stop a run, also from another terminal"))),
        Page("serve", Serve, None, (), (("--port 8000", "the page is at http://127.0.0.1:8000"),)),
        Page("models", Models),
        Page("doctor", Doctor),
        Page(
            "completion", Completion, None, (), (("bash", "the script; `source <(polymode completion bash)` uses it"),)
        ),
    )
    return {p.name: p for p in every}


def prior_choices() -> str:
    from app.models import known_models

    return ", ".join(m.alias for m in known_models())


def named_preset(argv: list[str], of: Callable[[str], Recipe]) -> Recipe:
    """The preset's recipe, by `of`, so that --preset sets the defaults of the flags beside it."""
    name = "draft"
    for i, word in enumerate(argv):
        if word == "--preset" and i + 1 < len(argv):
            name = argv[i + 1]
        elif word.startswith("--preset="):
            name = word.split("=", 1)[1]
    return of(name)


def parse(argv: list[str]) -> Command | str:
    """The command that was asked for, or the text of a help page, the version or a completion script. UsageError, one
    sentence, for what is none."""
    first, rest = (argv[0], argv[1:]) if argv else ("", [])
    if first == "--version":
        return version()
    known = pages(rest)
    if first in ("-h", "--help", "--help-all"):
        return overview(list(known.values()))
    if first not in known:
        listed = ", ".join(known)
        said = f"There is no command {first[:60]!r}; use" if first else "Say what to do:"
        raise UsageError(f"{said} one of {listed}. `polymode --help` says what they do.")
    asked = known[first]
    if {"-h", "--help"} & set(rest):
        return page(asked)
    if "--help-all" in rest:
        return full_help(asked)
    command = parsed(asked, rest)
    return completion(command.shell) if isinstance(command, Completion) else command


def parsed(asked: Page, rest: list[str]) -> Any:
    """The command from its words. What tyro prints becomes a UsageError."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return tyro.cli(asked.kind, args=rest, prog=f"polymode {asked.name}", **defaults(asked))
    except SystemExit as e:
        raise UsageError(f"{sentence(said.getvalue())}; `polymode {asked.name} --help` explains.") from e


def defaults(asked: Page) -> dict[str, Any]:
    return {} if asked.default is None else {"default": asked.default}


def full_help(asked: Page) -> str:
    """tyro's own help, with every setting."""
    said = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
        tyro.cli(asked.kind, args=["--help"], prog=f"polymode {asked.name}", **defaults(asked))
    return "\n".join(line.rstrip() for line in said.getvalue().splitlines()) + "\n"


def sentence(said: str) -> str:
    """What tyro said, in a line: the first paragraph, without what help says of its flags, and what it suggests."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in said.rstrip().splitlines()[2:]:  # a title and a rule
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if text.startswith("----"):
            found.append(("", []))
        elif indent == 2:
            found[-1] = (f"{found[-1][0]} {text}".strip(), found[-1][1])
        elif indent == 6:
            found[-1][1].append(text)
    what, items = found[0]
    for pattern, words in CLEARER:
        what = re.sub(pattern, words, what)
    what = " ".join([what.rstrip("."), ", ".join(items)]).strip()
    meant = [re.split(r"[ ,]", i)[0] for w, items in found[1:] if w.startswith("Perhaps") for i in items]
    return f"{what} (did you mean {' or '.join(dict.fromkeys(meant))}?)" if meant else what


def version() -> str:
    """The version, and what it runs on; torch's is read without importing it."""
    import importlib.metadata

    versions = {p: importlib.metadata.version(p) for p in ("polymode", "torch")}
    return f"polymode {versions['polymode']} (Python {platform.python_version()}, torch {versions['torch']})\n"


def completion(shell: str) -> str:
    """A script for `shell` that completes commands, flags and choices."""
    kind: Any = None
    for p in pages([]).values():
        one = Annotated[p.kind, tyro.conf.subcommand(p.name, **defaults(p))]
        kind = one if kind is None else kind | one
    said, token = io.StringIO(), choices.completing.set(True)
    try:
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
            tyro.cli(kind, args=["--tyro-print-completion", shell], prog="polymode")
    finally:
        choices.completing.reset(token)
    return said.getvalue()
