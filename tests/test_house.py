"""The house: which rooms may know which others, read from the source, lazy imports included."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from guidance.fdistill import H
from guidance.schedule import WEIGHTS
from guidance.settings import DIVERGENCES, WEIGHT_NAMES

ROOT = Path(__file__).parents[1]
ROOMS = ("polymode", "app", "guidance", "renderers", "threestudio_ext", "assets")
KIT = {"app.lowpoly", "app.augment", "app.photograph"}  # old names for the training kit
TRAIN = {  # `polymode train`: its flags, its body
    "app.commands": {"app.training.options", "app.training.options.Train"},
    "app.cli": {"app.training.command", "app.training.command.run_train"},
}
DOOR = {"app.evaluate.command"}  # `evaluate prior --data FOLDER`: only those who have the data


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


GRAPH = {module_of(p): imports(p) for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))}


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("guidance", ("app", "renderers", "threestudio_ext", "polymode")),
        ("renderers", ("app", "guidance", "threestudio_ext", "polymode")),
        ("threestudio_ext", ("app", "polymode")),
        ("app", ("tests", "benchmarks", "polymode")),
    ],
)
def test_dependencies_point_one_way(room: str, forbidden: tuple[str, ...]) -> None:
    wrong = [
        f"{module} -> {name}"
        for module, names in GRAPH.items()
        if within(module, room)
        for name in names
        if any(within(name, f) for f in forbidden)
    ]
    assert not wrong


def test_nothing_but_the_command_that_trains_imports_what_trains() -> None:
    trains = (
        "app.training",
        "guidance.priors.embedded_train",
        "guidance.priors.embedded_sets",
    )
    wrong = {
        module
        for module, names in GRAPH.items()
        if not any(within(module, t) for t in trains) and any(within(n, t) for n in names for t in trains)
    }
    assert wrong == KIT | DOOR | set(TRAIN)
    for module, only in TRAIN.items():
        assert {n for n in GRAPH[module] if within(n, "app.training")} == only
    source = (ROOT / "app" / "cli.py").read_text(encoding="utf-8")
    at_once = [n for n in ast.parse(source).body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not [n for n in at_once if "training" in ast.unparse(n)], "only `polymode train` loads it"
    flags = GRAPH["app.training.options"]
    assert not [n for n in flags if n.startswith(("app.", "guidance")) and not within(n, "app.choices")], flags


def test_the_names_of_settings_are_those_of_the_formulas() -> None:
    assert tuple(WEIGHTS) == WEIGHT_NAMES
    assert (*H, "adaptive") == DIVERGENCES


def test_files_of_ours_are_utf8_whatever_the_locale() -> None:
    """No text is read or written in the locale's encoding: no read_text(), write_text(text) or open(..., "w") without
    `encoding`."""
    wrong = []
    for room in (*ROOMS, "benchmarks"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and locale_read(node):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []
    for bad in ("p.read_text()", "p.write_text(t)", 'open(p, "w")', 'p.open("a")', "open(p)", "f(text=True)"):
        assert locale_read(ast.parse(bad, mode="eval").body), bad
    for good in ('p.read_text(encoding="utf-8")', "run.write_text(NAME, t)", 'p.open("rb")', "e.open()", "g(p)"):
        assert not locale_read(ast.parse(good, mode="eval").body), good


def locale_read(call: ast.expr) -> bool:
    assert isinstance(call, ast.Call)
    named = {k.arg for k in call.keywords}
    if "encoding" in named:
        return False
    if isinstance(call.func, ast.Name) and call.func.id == "open":
        modes = [a.value for a in call.args[1:2] if isinstance(a, ast.Constant)]
        return not any("b" in str(m) for m in modes)
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    return (
        (name == "read_text" and not call.args)
        or (name == "write_text" and len(call.args) == 1)
        or (name == "open" and isinstance(first, str) and re.fullmatch("[rwax+t]+", first) is not None)
        or "text" in named  # of a process
    )


def test_numbers_that_several_places_share_stand_once() -> None:
    """A second `def dot`, a second `VIEWS = 4`, a range of elevations by hand: where one is changed, others are
    forgotten."""
    text = {m: (ROOT / (m.replace(".", "/") + ".py")) for m in GRAPH}
    source = {m: p.read_text(encoding="utf-8") for m, p in text.items() if p.is_file()}
    for pattern in ("def dot(", "VIEWS = 4", "radians(-10)", "* 0.5 + 0.5).clamp(0, 1)"):
        places = [m for m, s in source.items() if pattern in s]
        assert len(places) <= 1, f"{pattern}: {places}"
