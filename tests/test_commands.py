"""The command line's parsing and its help: no process, no torch."""

from __future__ import annotations

import dataclasses
import subprocess
from importlib.metadata import version

import pytest
import yaml

from app.commands import Generate, Reconstruct, completion, pages, parse
from app.compare.options import Compare
from app.errors import UsageError
from app.methods import NAMES
from app.models import known_models
from app.recipe_yaml import to_yaml
from app.recipes import BACKGROUNDS, DEVICES, INITS, PRECISIONS, PRESETS, preset
from app.settings import settings, with_settings


def refusal(line: str) -> str:
    with pytest.raises(UsageError) as e:
        parse(line.split())
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize("command", ["generate", "reconstruct"])
def test_short_help_fits_two_screens_and_lists_every_choice(command: str) -> None:
    text = parse([command, "--help"])
    assert isinstance(text, str)
    lines = text.splitlines()
    assert len(lines) < 80 and max(map(len, lines)) <= 100
    choices = [PRESETS, NAMES, DEVICES, PRECISIONS, INITS if command == "generate" else BACKGROUNDS]
    for names in choices:
        assert "{" + ",".join(names) + "}" in text
    for model in known_models():
        assert model.alias in text
    examples = [line for line in lines if line.startswith(f"  polymode {command} ")]
    assert len(examples) == 5
    assert "--help-all" in lines[-1]


def test_help_all_has_every_setting() -> None:
    text = parse(["generate", "--help-all"])
    assert isinstance(text, str) and len(text.splitlines()) > 300
    names = [n for n in settings() if not n.startswith("picture.")]
    assert len(names) > 100 and not [n for n in names if f"--{n}" not in text]


def test_every_command_has_help_with_its_examples() -> None:
    for name, page in pages([]).items():
        text = parse([name, "--help"])
        assert isinstance(text, str) and text.startswith(f"usage: polymode {name}")
        assert all(text.count(example) for example, _ in page.examples)
    overview = parse(["--help"])
    assert isinstance(overview, str) and all(f"\n  {name} " in overview for name in pages([]))


def test_help_shows_the_numbers_of_the_preset() -> None:
    assert "(default: 40000)" in str(parse(["generate", "--preset", "high", "--help"]))


@pytest.mark.parametrize(
    ("short", "long", "value"),
    [
        ("--faces", "--mesh.faces", "2000"),
        ("--texture-size", "--texture.size", "512"),
        ("--negative", "--guide.negative", "blue"),
    ],
)
def test_short_names_are_the_long_ones(short: str, long: str, value: str) -> None:
    for command in (["generate", "a key"], ["reconstruct", "a.png"]):
        one, other = parse([*command, short, value]), parse([*command, long, value])
        assert isinstance(one, Generate | Reconstruct) and one == other
        group, name = long.removeprefix("--").split(".")
        saved = yaml.safe_load(to_yaml(one.recipe))
        assert str(saved[group][name]) == value and saved.keys() == yaml.safe_load(to_yaml(preset("draft"))).keys()
    given = int(value) if value.isdigit() else value
    assert with_settings(preset("draft"), {short: given}) == with_settings(preset("draft"), {long: given})


def test_compare_has_the_short_names_too() -> None:
    a = parse(["compare", "a key", "--faces", "2000"])
    assert isinstance(a, Compare) and a.mesh.faces == 2000


def test_flags_beside_a_preset_change_it() -> None:
    a = parse(["generate", "a key", "--preset=high", "--faces", "2000"])
    assert isinstance(a, Generate)
    high = preset("high")
    assert a.recipe == dataclasses.replace(high, mesh=dataclasses.replace(high.mesh, faces=2000))


def test_the_version_is_that_of_the_package() -> None:
    assert str(parse(["--version"])).startswith(f"polymode {version('polymode')} (Python 3.")


def test_wrong_words_are_one_sentence_that_says_what_is_right() -> None:
    assert "did you mean --seed?" in refusal("generate x --sed 3")
    assert "--seed takes a whole number, not 'foo'" in refusal("generate x --seed foo")
    assert "--guide.clip takes a number, not 'x'" in refusal("generate x --guide.clip x")
    assert "in quotes" in refusal("generate a wooden barrel")
    assert "--out PATH" in refusal("batch lines.jsonl")
    assert "'cancel'" in refusal("jobs stop")
    assert "generate, reconstruct" in refusal("gen") and "generate, reconstruct" in refusal("")
    assert "polymode jobs --help" in refusal("jobs --state")


def test_the_refusals_do_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    wide = refusal("generate x --sed 3")
    monkeypatch.setenv("COLUMNS", "60")
    assert refusal("generate x --sed 3") == wide


def complete(script: str, *words: str) -> list[str]:
    """What bash offers for the last word."""
    line = f"""{script}
COMP_WORDS=({" ".join(words)} "")
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
COMP_LINE="{" ".join(words)} "
COMP_POINT=${{#COMP_LINE}}
_tyro_polymode
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return subprocess.run(
        ["bash"], input=line, capture_output=True, text=True, timeout=60
    ).stdout.split()  # too long a word


def test_bash_completes_commands_and_choices() -> None:
    script = completion("bash")
    assert set(pages([])) <= set(complete(script, "polymode"))
    assert set(NAMES) <= set(complete(script, "polymode", "generate", "--method"))
    assert set(complete(script, "polymode", "generate", "--precision")) == set(PRECISIONS)


def test_the_parser_still_takes_any_name_and_the_check_refuses_it() -> None:
    a = parse(["generate", "x", "--method", "magic"])
    assert isinstance(a, Generate) and a.recipe.method == "magic"
