"""What `polymode --help` and `polymode COMMAND --help` print: the settings that people use, their choices, examples.

All come from the dataclasses of the commands, as do the flags themselves. `--help-all`, tyro's own help, has the rest.
"""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional, Suppress

from app.settings import helps

COLUMN = 26  # where a setting's text begins
WIDTH = 100  # of a line at most
POSITIONAL = typing.get_args(Positional[int])[1]
SUPPRESS = typing.get_args(Suppress[int])[1]
REQUIRED = dataclasses.MISSING
VALUES = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Page:
    """A command's short help. `default`: where its settings' values come from. `usual`: the settings it shows, as
    paths of fields; all there are, if empty. `notes`: texts that say more than the field's own, by path."""

    name: str
    kind: type
    default: Any = None
    usual: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A setting: its flag (or the word it stands for), what follows the flag, its text."""

    path: str
    flag: str
    value: str
    text: str
    positional: bool = False


def page(p: Page) -> str:
    """The short help of a command."""
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    every = {r.path: r for r in rows(p.kind, p.default)}
    shown = [every[name] for name in p.usual] if p.usual else list(every.values())
    words, flags = [r for r in shown if r.positional], [r for r in shown if not r.positional]
    what = " ".join(["polymode", p.name, *(r.flag for r in words), "[--SETTING VALUE ...]"])
    lines = [f"usage: {what}", "", *textwrap.wrap(" ".join((p.kind.__doc__ or "").split()), width), ""]
    for r in (*words, *flags):
        lines += entry(f"{r.flag} {r.value}".strip(), p.notes.get(r.path, r.text), width)
    if p.examples:
        lines += ["", "Examples:"]
        lines += [line for command, text in p.examples for line in entry(f"polymode {p.name} {command}", text, width)]
    if len(every) > len(shown):
        lines += ["", f"polymode {p.name} --help-all lists {len(every) - len(shown)} more settings."]
    return "\n".join(lines) + "\n"


def overview(pages: Sequence[Page]) -> str:
    """The help of the program: its commands."""
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    lines = ["usage: polymode COMMAND [--SETTING VALUE ...]", "", "Commands:"]
    for p in pages:
        lines += entry(p.name, " ".join((p.kind.__doc__ or "").split()), width)
    lines += ["", "polymode COMMAND --help says more; polymode --version prints the version."]
    return "\n".join(lines) + "\n"


def entry(head: str, text: str, width: int) -> list[str]:
    """One setting in two columns; a long head has lines of its own."""
    indent = " " * COLUMN
    body = textwrap.wrap(text, max(20, width - COLUMN), break_long_words=False, break_on_hyphens=False)
    if len(head) + 4 <= COLUMN and body:
        return [f"  {head}".ljust(COLUMN) + body[0], *(indent + b for b in body[1:])]
    return [f"  {head}", *(indent + b for b in body)]


def rows(kind: type, default: Any = None, path: tuple[str, ...] = (), flag: tuple[str, ...] = ()) -> Iterator[Row]:
    """Every setting of a command's dataclass, nested ones after their parents, with the values of `default`."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for f in dataclasses.fields(kind):
        hint, marks = hints[f.name], ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *marks = typing.get_args(hint)
        if SUPPRESS in marks:
            continue
        named = next((m.name for m in marks if getattr(m, "name", None) is not None), f.name)
        inner, flags = (*path, f.name), (*flag, named) if named else flag
        value = getattr(default, f.name, given(f)) if default is not None else given(f)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from rows(hint, value, inner, flags)
            continue
        yield row(".".join(inner), ".".join(flags).replace("_", "-"), hint, marks, value, helps(kind).get(f.name, ""))


def row(path: str, flag: str, hint: Any, marks: Sequence[Any], value: Any, text: str) -> Row:
    """One setting of the type `hint`, with what stands beside it in Annotated, and its default."""
    metavar = next((m.metavar for m in marks if getattr(m, "metavar", None)), None) or placeholder(hint)
    if POSITIONAL in marks:
        word = f"{metavar} ..." if typing.get_origin(hint) is tuple else metavar
        return Row(path, word if value in (REQUIRED, ()) else f"[{word}]", "", text, positional=True)
    aliases = next((m.aliases for m in marks if getattr(m, "aliases", None)), None)
    if value is not None and value != "" and value != () and not isinstance(value, bool) and value is not REQUIRED:
        text = f"{text} (default: {value})"
    if aliases:
        text = f"{text} Also --{flag}."
    return Row(path, aliases[0] if aliases else f"--{flag}", metavar, text)


def given(f: dataclasses.Field[Any]) -> Any:
    """A field's default, or REQUIRED."""
    return f.default_factory() if f.default_factory is not REQUIRED else f.default


def placeholder(hint: Any) -> str:
    """What stands for a value of this type."""
    if hint is bool:
        return ""
    origin, inner = typing.get_origin(hint), [a for a in typing.get_args(hint) if a is not type(None)]
    if origin is Literal:
        return "{" + ",".join(map(str, inner)) + "}"
    if origin is tuple:
        return f"{placeholder(inner[0])} ..."
    if origin is types.UnionType:
        return placeholder(inner[0])
    return VALUES[hint]
