"""What the README and the docs print can be run: every command is one, every file it names is there."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import polymode
from app.batch.lines import read_lines
from app.commands import Batch, Compare, Evaluate, Generate, Reconstruct, Texture, parse
from app.recipes import check
from app.reconstruct import picture_recipe

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def blocks(page: Path, language: str = "") -> list[str]:
    """The fenced blocks of a page, of one language or of none."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `polymode` line in the page's blocks, without comments; those with an ellipsis are none."""
    for block in blocks(page) + blocks(page, "(?:bash|sh)"):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(r"(?:\w+=\S+ )*(?:\S*/)?polymode( .*)", line):
                words = shlex.split(found[1], comments=True)
                if "…" not in found[1]:
                    yield words


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_that_is_printed_is_one(page: Path) -> None:
    for words in commands(page):
        parse(words)


def test_the_commands_of_the_readme_run_as_they_are_printed() -> None:
    """Checked as far as a second takes: settings, prompts, pictures, lines, and folders of earlier commands."""
    made, kinds = {"runs"}, set[type]()
    for words in commands(README):
        a: Any = parse(words)
        kinds.add(type(a))
        if isinstance(a, Generate):
            check(a.recipe.__class__(**{**vars(a.recipe), "prompt": a.prompt}))
        if isinstance(a, Reconstruct):
            assert all((ROOT / p).is_file() for p in a.pictures), words
            picture_recipe(a.recipe.__class__(**{**vars(a.recipe), "picture": a.options}), len(a.pictures))
        if isinstance(a, Texture):
            assert str(a.mesh.parent) in made and a.mesh.name == "mesh.glb", f"{a.mesh} is not there yet"
        if isinstance(a, Batch):
            assert all(not line.error for line in read_lines(ROOT / a.lines))
        if isinstance(a, Compare):
            assert a.prompts and set(a.names())
        if isinstance(a, Evaluate):
            assert a.what in made, f"{a.what} is not there yet"
        if getattr(a, "out", None) is not None:
            made.add(str(a.out))
    assert {Generate, Reconstruct, Texture, Batch, Compare, Evaluate} <= kinds


def test_the_readme_calls_the_library_as_it_is() -> None:
    (code,) = blocks(README, "python")
    calls = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    named = {c.func.attr: c for c in calls if ast.unparse(c.func).startswith("polymode.")}  # pyright: ignore[reportAttributeAccessIssue]
    assert named
    for name, call in named.items():
        inspect.signature(getattr(polymode, name)).bind(*call.args, **{k.arg or "": None for k in call.keywords})
    with pytest.raises(polymode.UsageError) as e:
        polymode.generate("a red mushroom", method="magic")
    assert f"{e.value.exit_code} {e.value}" in README.read_text(encoding="utf-8")


def test_what_can_be_installed_is_there() -> None:
    text = README.read_text(encoding="utf-8")
    extras = set(re.findall(r"'\.\[(\w+)\]'", "\n".join(p.read_text(encoding="utf-8") for p in PAGES)))
    assert extras and extras <= set(PROJECT["optional-dependencies"])
    assert "--constraint constraints.txt" in text and (ROOT / "constraints.txt").is_file()
    assert not re.search(r"pip install '?polymode", "\n".join(p.read_text(encoding="utf-8") for p in PAGES))


def test_every_direct_dependency_is_pinned_within_its_bounds() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = {r.name.lower().replace("_", "-"): next(iter(r.specifier)).version for r in map(Requirement, lines)}
    extras = PROJECT["optional-dependencies"]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras["dev"], *extras["ray"]]):
        name = requirement.name.lower().replace("_", "-")
        assert name in pins and pins[name] in requirement.specifier, requirement
