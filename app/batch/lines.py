"""Lines of a JSONL file into recipes.

    {"prompt": "a red mushroom", "seed": 3, "direct.steps": 8}
    {"image": "photos/chair.png", "prompt": "a chair", "direct": {"views": 4}}

Settings are named as in config.yaml, nested or dotted; a method's and the pictures' also as on the command line
("dsd.hold", "background"). A line that cannot run keeps its one sentence, and the others go on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from app.errors import UsageError, as_user_error
from app.methods import METHODS
from app.pictures.read import KINDS, MAX_BYTES
from app.recipe_yaml import build, plain
from app.recipes import PictureRecipe, Recipe, check, picture_preset, preset, tidied
from app.reconstruct import MAX_PICTURES, picture_recipe
from app.settings import every_setting
from app.text import blank, control, shown, slug, tidy

MAX_FILE = 10_000_000
MAX_LINES = 10_000
MAX_LINE = 100_000
PICTURE_FIELDS = tuple(f.name for f in dataclasses.fields(PictureRecipe) if f.name != "count")
Names = tuple[str, ...]
SHORT: dict[str, Names] = {s.short.replace("-", "_"): s.path for s in every_setting().values() if s.short}


@dataclass(frozen=True)
class Line:
    """A line that says something. `number` counts from 1, blank lines too. Either `error` says why it cannot run, or
    there is a recipe; `identity` is the same for the same content."""

    number: int
    title: str
    identity: str = ""
    recipe: Recipe | None = None
    pictures: tuple[Path, ...] = ()
    error: str = ""
    exit_code: int = 0

    def name(self) -> str:
        """Of a new run folder."""
        prompt = "" if self.recipe is None else self.recipe.prompt
        return f"{self.number:04d}-{slug(prompt or (self.pictures[0].stem if self.pictures else self.title))}"


def read_lines(path: Path) -> list[Line]:
    """The lines of a file. UsageError, one sentence, for a file that holds none at all."""
    text = read_text(path)
    rows = [(k, row) for k, row in enumerate(text.split("\n"), 1) if row.strip()]
    if not rows:
        raise UsageError(f"{path} is empty; write one JSON object a line.")
    if len(rows) > MAX_LINES:
        raise UsageError(f"{path} has {len(rows)} lines; the limit is {MAX_LINES}, so split it.")
    return [read_line(k, row.strip(), path.parent) for k, row in rows]


def read_text(path: Path) -> str:
    """A text file of a sane size. UsageError for anything else."""
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; give a file with one JSON object a line.")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is no plain file; give a file with one JSON object a line.")
        size = path.stat().st_size
        if size > MAX_FILE:
            raise UsageError(f"{path} has {size / 1e6:.0f} MB; the limit is {MAX_FILE // 1_000_000} MB, so split it.")
        data = path.read_bytes()
    except (OSError, ValueError) as e:
        why = getattr(e, "strerror", None) or str(e)
        raise UsageError(f"The file {path} cannot be read ({why}); give a file with one JSON object a line.") from e
    try:
        if b"\0" in data:
            raise ValueError
        return data.decode("utf-8-sig")
    except ValueError as e:
        raise UsageError(f"{path} is no UTF-8 text; give a file with one JSON object a line.") from e


def read_line(number: int, text: str, folder: Path) -> Line:
    """A line into a recipe, checked; what is wrong with it is the line's `error`."""
    title = shown(text)
    try:
        given = flatten(read_object(text))
        title = shown(titled(given) or title)
        pictures, digests = find_pictures(given.pop(("image",), None), folder)
        recipe = make_recipe(given, len(pictures))
        identity = hashlib.sha256(json.dumps(content(recipe, given, pictures, digests)).encode()).hexdigest()[:16]
    except Exception as e:  # a line never takes the others along
        told = as_user_error(e)
        return Line(number, title, error=shown(str(told), 500), exit_code=told.exit_code)
    return Line(number, title, identity, recipe, pictures)


def titled(given: dict[Names, Any]) -> str:
    """The prompt, or the pictures' names."""
    prompt, image = given.get(("prompt",)), given.get(("image",))
    names = image if isinstance(image, list) else [image or ""]
    return tidy(str(prompt)) if prompt else ", ".join(map(str, names))


def read_object(text: str) -> dict[str, Any]:
    """A JSON object of finite numbers and strings without control characters. UsageError for anything else."""
    if len(text) > MAX_LINE:
        raise UsageError(f"The line has {len(text)} characters; the limit is {MAX_LINE}, so shorten it.")
    try:
        value = json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)
    except RecursionError as e:
        raise UsageError("The line is nested too deeply; write one JSON object a line.") from e
    except ValueError as e:
        where = f" at character {e.colno}" if isinstance(e, json.JSONDecodeError) else ""
        what = e.msg if isinstance(e, json.JSONDecodeError) else str(e).split(";")[0]
        raise UsageError(f"The line is not JSON ({what}{where}); write one JSON object a line.") from e
    if not isinstance(value, dict):
        raise UsageError(
            'The line is JSON, but no object; write for instance {"prompt": "a red mushroom"}, all on one line.'
        )
    for leaf in _leaves(value):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise UsageError("The line holds a number that is not finite; use ordinary numbers.")
        if isinstance(leaf, str) and any(control(c) and not blank(c) for c in leaf):
            raise UsageError("The line holds control characters; use plain text.")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. UsageError where a name comes twice."""
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [k for k, _ in pairs]
        twice = next(n for n in names if names.count(n) > 1)
        raise UsageError(f"{twice!r} is given twice; give it once.")
    return out


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for k, v in value.items():
            yield k
            yield from _leaves(v)
    elif isinstance(value, list):
        for v in value:
            yield from _leaves(v)
    else:
        yield value


def flatten(data: dict[str, Any]) -> dict[Names, Any]:
    """Nested and dotted settings as {path in the recipe: value}. UsageError where one comes twice."""
    out: dict[Names, Any] = {}

    def walk(value: dict[str, Any], above: Names) -> None:
        for key, v in value.items():
            path = full((*above, *key.replace("-", "_").split(".")))
            if isinstance(v, dict) and v:
                walk(v, path)
            elif path in out:
                raise UsageError(f"{'.'.join(path)!r} is given twice; give it once.")
            else:
                out[path] = v

    walk(data, ())
    return out


def full(path: Names) -> Names:
    """Where config.yaml has what the command line calls DSD.HOLD, FACES, or BACKGROUND."""
    if len(path) == 1 and path[0] in SHORT:
        return SHORT[path[0]]
    if path[0] in METHODS:
        return ("methods", *path)
    return ("picture", *path) if len(path) == 1 and path[0] in PICTURE_FIELDS else path


def find_pictures(value: Any, folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The pictures of a line, from the file's own folder, and the digests of their bytes. UsageError for anything but
    readable files."""
    if value is None:
        return (), ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise UsageError(f'"image" must be a path, or a list of paths; give {KINDS} files.')
    if len(names) > MAX_PICTURES:
        raise UsageError(f"{len(names)} pictures were given; give 1 to {MAX_PICTURES} pictures of one object.")
    paths = tuple(folder / n for n in names)
    digests = []
    for path in paths:
        try:
            if path.exists() and not path.is_file():
                raise UsageError(f"{path} is no picture file; give a {KINDS} file.")
            if path.stat().st_size > MAX_BYTES:
                raise UsageError(
                    f"The picture {path} is larger than {MAX_BYTES // 1_000_000} MB; save a smaller copy."
                )
            digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
        except (OSError, ValueError) as e:
            why = getattr(e, "strerror", None) or str(e)
            raise UsageError(f"The picture {path} cannot be read ({why}); give a {KINDS} file.") from e
    return paths, tuple(digests)


def make_recipe(given: dict[Names, Any], pictures: int) -> Recipe:
    """The preset's recipe with the settings of a line, checked. UsageError for what does not fit."""
    name = given.get(("preset",), "draft")
    if not isinstance(name, str):
        raise UsageError("preset must be str; choose draft, standard or high.")
    tree = plain(dataclasses.asdict(picture_preset(name) if pictures else preset(name)))
    for path, value in given.items():
        put(tree, path, value)
    try:
        recipe: Recipe = build(Recipe, tree)
    except (TypeError, ValueError, OverflowError) as e:
        raise UsageError(f"A setting does not fit: {shown(str(e), 200)}; correct it.") from e
    if pictures:
        return picture_recipe(recipe, pictures)
    recipe = tidied(recipe)
    check(recipe)
    return recipe


def put(tree: dict[str, Any], path: Names, value: Any) -> None:
    """Set one setting. UsageError where there is none of that name."""
    at, name = tree, ".".join(path)
    for part in path[:-1]:
        below = at.get(part)
        if not isinstance(below, dict):
            raise UsageError(f"There is no setting {shown(name)!r}; `polymode generate --help-all` lists them.")
        at = below
    if path[-1] not in at or path == ("picture", "count"):
        raise UsageError(f"There is no setting {shown(name)!r}; `polymode generate --help-all` lists them.")
    if isinstance(at[path[-1]], dict):
        if value == {}:
            return
        raise UsageError(f"{shown(name)!r} is a group of settings; give it an object, or one of them with a dot.")
    at[path[-1]] = value


def content(
    recipe: Recipe, given: dict[Names, Any], pictures: tuple[Path, ...], digests: tuple[str, ...]
) -> list[list[Any]]:
    """What a line says, however it is written: its settings in order, as the recipe has them, and its pictures."""
    tree = plain(dataclasses.asdict(recipe))
    out: list[list[Any]] = []
    for path in sorted(p for p, v in given.items() if v != {}):
        value: Any = tree
        for part in path:
            value = value[part]
        out.append([".".join(path), value])
    return out + [["image", p.name, d] for p, d in zip(pictures, digests, strict=True)]
