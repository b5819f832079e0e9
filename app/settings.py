"""A recipe's numbers by name, as flags of the command line call them: what the web page's advanced drawer shows, what
its endpoints and `polymode.generate` take as `settings`.

All come from the dataclasses of app/recipes.py: names, types, defaults, and the docstring under each field as help.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import math
import textwrap
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import UsageError
from app.methods import METHODS
from app.recipes import (
    ANNEALS,
    BACKGROUNDS,
    DEVICES,
    FINISHES,
    HOLES,
    INITS,
    MAX_PROMPT,
    PRECISIONS,
    SURFACES,
    SYMMETRIES,
    PictureRecipe,
    Recipe,
)
from app.text import control, tidy
from guidance.settings import CFG_KINDS, DIVERGENCES, WEIGHT_NAMES

OWN = (
    "prompt",
    "preset",
    "prior",
    "method",
    "seed",
    "methods",
    "picture",
)  # have controls of their own, or are groups
NOT_OFFERED = ("count", "rembg_model", "azimuth", "elevation", "background")  # of a picture: set by the page itself
CHOICES: dict[str, tuple[str, ...]] = {
    "init": INITS,
    "refine.surface": SURFACES,
    "device": DEVICES,
    "precision": PRECISIONS,
    "field.anneal": ANNEALS,
    "guide.weight": WEIGHT_NAMES,
    "guide.cfg.kind": CFG_KINDS,
    "fdistill.divergence": DIVERGENCES,
    "mesh.symmetry": SYMMETRIES,
    "finish.kind": FINISHES,
    "picture.background": BACKGROUNDS,
    "picture.holes": HOLES,
}


@dataclass(frozen=True)
class Setting:
    """One number, switch or word of a recipe. `name` as its flag without the dashes in front, `path` of attributes."""

    name: str
    path: tuple[str, ...]
    kind: type
    help: str
    short: str = ""
    """Another name, without what it belongs to: faces for mesh.faces."""

    @property
    def group(self) -> str:
        return self.name.split(".")[0] if "." in self.name else "run"

    @property
    def choices(self) -> tuple[str, ...]:
        return CHOICES.get(self.name.replace("-", "_"), ())


@functools.cache
def helps(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[statement.target.id] = " ".join(text.value.split())
    return found


def _walk(kind: type, path: tuple[str, ...]) -> Iterator[Setting]:
    hints, marked = typing.get_type_hints(kind), typing.get_type_hints(kind, include_extras=True)
    for f in dataclasses.fields(kind):
        inner = (*path, f.name)
        if dataclasses.is_dataclass(hints[f.name]):
            yield from _walk(hints[f.name], inner)
        elif hints[f.name] in (bool, int, float, str):
            flag = inner[1:] if inner[0] == "methods" else inner
            name = ".".join(flag).replace("_", "-")
            marks = typing.get_args(marked[f.name])[1:]
            short = next((m.aliases[0] for m in marks if getattr(m, "aliases", None)), "").removeprefix("--")
            yield Setting(name, inner, hints[f.name], helps(kind).get(f.name, ""), short)


@functools.cache
def every_setting() -> dict[str, Setting]:
    """All there are, by name, in the order of the dataclasses."""
    return {s.name: s for s in _walk(Recipe, ())}


@functools.cache
def settings() -> dict[str, Setting]:
    """Those that have no control of their own on the page."""
    kept = [
        s for s in every_setting().values() if s.path[0] not in OWN or s.path[0] == "methods" or s.path[0] == "picture"
    ]
    return {s.name: s for s in kept if not (s.path[0] == "picture" and s.path[1] in NOT_OFFERED)}


def groups() -> dict[str, list[Setting]]:
    """The settings of each group, those of a run first and those of single methods last."""
    out: dict[str, list[Setting]] = {"run": []}
    for s in sorted(settings().values(), key=lambda s: s.group in METHODS):
        out.setdefault(s.group, []).append(s)
    return out


def value_of(recipe: Recipe, s: Setting) -> Any:
    return functools.reduce(getattr, s.path, recipe)


def converted(s: Setting, value: Any) -> Any:
    """`value` in the setting's type. UsageError, one sentence, for what is none."""
    if s.kind is bool and isinstance(value, bool):
        return value
    if s.kind is bool and value in ("yes", "no"):
        return value == "yes"
    if s.kind is str and isinstance(value, str):
        value = tidy(value)
        if len(value) > MAX_PROMPT or control(value):
            raise UsageError(f"{s.name} must be at most {MAX_PROMPT} printable characters; shorten it.")
        if s.choices and value not in s.choices:
            raise UsageError(f"Unknown {s.name} {value!r}; choose one of {', '.join(s.choices)}.")
        return value
    if s.kind in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value) or abs(value) > 1e12:
            raise UsageError(f"{s.name} must be an ordinary number; correct it.")
        if s.kind is float or float(value).is_integer():
            return s.kind(value)
    what = {bool: "yes or no", int: "a whole number", float: "a number", str: "text"}[s.kind]
    raise UsageError(f"{s.name} must be {what}; correct it.")


def with_settings(recipe: Recipe, given: Mapping[str, Any], known: Mapping[str, Setting] | None = None) -> Recipe:
    """`recipe` with the settings in `given` replaced, of `known` ones (those of the page, if left out); None and empty
    text leave one as it is. UsageError for a name that is none, and a value of another type; ranges are judged by
    app/recipes.py's check."""
    known = settings() if known is None else dict(known)
    known = {s.short: s for s in known.values() if s.short} | known
    for name, value in given.items():
        s = known.get(str(name).removeprefix("--").replace("_", "-"))
        if s is None:
            raise UsageError(f"Unknown setting {str(name)[:60]!r}; `polymode generate --help-all` names them.")
        if value is not None and value != "":
            recipe = replaced(recipe, s.path, converted(s, value))
    return recipe


def replaced(node: Any, path: tuple[str, ...], value: Any) -> Any:
    """A frozen dataclass with the attribute at the end of `path` replaced."""
    first, *rest = path
    return dataclasses.replace(node, **{first: replaced(getattr(node, first), tuple(rest), value) if rest else value})


def pictured(recipe: Recipe, options: PictureRecipe) -> Recipe:
    """`recipe` with what the page itself knows of the pictures: background and angles."""
    p = dataclasses.replace(
        recipe.picture, background=options.background, azimuth=options.azimuth, elevation=options.elevation
    )
    return dataclasses.replace(recipe, picture=p)
