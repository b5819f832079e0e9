"""Lines of `polymode batch` into recipes: what they may say, and one sentence for what they may not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.batch.lines import read_line, read_lines
from app.text import control
from tests.test_batch import picture

HERE = Path()


def test_nested_and_dotted_settings_say_the_same() -> None:
    a = read_line(
        1, '{"prompt": "a cow", "field": {"steps": 50, "scale": 3}, "seed": 4, "methods.dsd.hold": 0.5}', HERE
    )
    b = read_line(9, '{"seed":4,"dsd":{"hold":0.5},"field.scale":3.0,"field.steps":50,"prompt":" a cow "}', HERE)
    assert a.recipe is not None and a.recipe == b.recipe and a.identity == b.identity
    assert a.recipe.field.steps == 50 and a.recipe.methods.dsd.hold == 0.5 and a.recipe.seed == 4
    assert a.name() == "0001-a-cow" and b.name() == "0009-a-cow"
    other = read_line(1, '{"prompt": "a cow", "field.steps": 51, "field.scale": 3, "seed": 4, "dsd.hold": 0.5}', HERE)
    assert other.identity != a.identity


def test_short_names_of_the_command_line_are_settings_too() -> None:
    short = read_line(1, '{"prompt": "a cow", "faces": 900, "texture-size": 256, "negative": "blue"}', HERE)
    long = read_line(2, '{"prompt": "a cow", "mesh.faces": 900, "texture.size": 256, "guide.negative": "blue"}', HERE)
    assert short.recipe is not None and short.recipe == long.recipe and short.identity == long.identity
    twice = read_line(3, '{"prompt": "a cow", "faces": 900, "mesh.faces": 800}', HERE)
    assert "given twice" in twice.error


def test_the_example_has_no_line_that_cannot_run() -> None:
    lines = read_lines(Path(__file__).parents[1] / "examples" / "prompts.jsonl")
    assert len(lines) >= 3 and all(line.recipe is not None and not line.error for line in lines)
    assert any(line.pictures for line in lines)


def test_a_preset_sets_what_the_line_does_not() -> None:
    line = read_line(1, '{"prompt": "a cow", "preset": "standard", "field.steps": 7, "best-of": 2}', HERE)
    assert line.recipe is not None
    assert (line.recipe.field.steps, line.recipe.field.sets, line.recipe.mesh.faces, line.recipe.best_of) == (
        7,
        2,
        20000,
        2,
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{oops", "not JSON"),
        ("[1, 2]", "no object"),
        ('"a cow"', "no object"),
        ("[" * 5000, "nested too deeply"),
        ('{"prompt": "a cow", "seed": NaN}', "NaN"),
        ('{"prompt": "a cow", "field.scale": 1e999}', "not finite"),
        ('{"prompt": "a cow", "prompt": "a dog"}', "twice"),
        ('{"prompt": "a cow", "field.steps": 1, "field": {"steps": 2}}', "twice"),
        ('{"prompt": "a cow", "colour": "red"}', "no setting 'colour'"),
        ('{"prompt": "a cow", "field.stepz": 5}', "no setting 'field.stepz'"),
        ('{"prompt": "a cow", "seed.x": 5}', "no setting 'seed.x'"),
        ('{"prompt": "a cow", "picture.count": 2}', "no setting"),
        ('{"prompt": "a cow", "field": 5}', "group of settings"),
        ('{"prompt": "a cow", "field.steps": "many"}', "steps must be int"),
        ('{"prompt": "a cow", "field.steps": 5.5}', "steps must be int"),
        ('{"prompt": "a cow", "seed": true}', "seed must be int"),
        ('{"prompt": "a cow", "field.steps": 0}', "out of range"),
        ('{"prompt": "a cow", "seed": -1}', "out of range"),
        ('{"prompt": "a cow", "method": "magic"}', "magic"),
        ('{"prompt": "a cow", "preset": "best"}', "draft, standard or high"),
        ('{"prompt": "a\\u0007cow"}', "control characters"),
        ('{"prompt": ""}', "empty"),
        ("{}", "empty"),
        ('{"prompt": 5}', "prompt must be str"),
        ('{"image": "nowhere.png"}', "cannot be read"),
        ('{"image": "."}', "no picture file"),
        ('{"image": []}', "list of paths"),
        ('{"image": [3]}', "list of paths"),
    ],
)  # fmt: skip
def test_a_bad_line_is_one_sentence(text: str, part: str) -> None:
    line = read_line(3, text, HERE)
    assert line.recipe is None and part in line.error and line.exit_code == 2
    assert line.error.endswith(".") and line.error.isprintable()


NAMES = [
    "prompt",
    "image",
    "seed",
    "method",
    "preset",
    "field",
    "steps",
    "field.steps",
    "direct",
    "azimuth",
    "dsd.hold",
]
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["sds", "draft"])
)
VALUES = st.recursive(
    LEAVES,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), v, max_size=4),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), VALUES, max_size=5).map(json.dumps)


@settings(max_examples=300, deadline=None)
@given(OBJECTS | VALUES.map(json.dumps) | st.text(max_size=60))
def test_garbage_is_a_recipe_or_one_sentence(text: str) -> None:
    line = read_line(1, text.replace("\n", " "), HERE)
    assert (line.recipe is None) == bool(line.error) == (not line.identity)
    assert not control(line.error) and not control(line.title) and len(line.title) <= 80
    assert not line.error or line.error.endswith((".", "…"))
    assert "/" not in line.name() and line.name().startswith("0001-")


def test_a_changed_picture_is_another_line(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "red")
    a = read_line(1, '{"image": "a.png", "background": "alpha"}', tmp_path)
    assert a.recipe is not None and a.recipe.picture.count == 1 and a.recipe.picture.background == "alpha"
    assert a.recipe.prior == "embedded" and a.pictures == (tmp_path / "a.png",)
    assert read_line(2, '{"image": ["a.png"], "background": "alpha"}', tmp_path).identity == a.identity
    picture(tmp_path / "a.png", "blue")
    assert read_line(1, '{"image": "a.png", "background": "alpha"}', tmp_path).identity != a.identity


def test_blank_lines_and_line_separators_within_strings_count_as_editors_count(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        '\ufeff{"prompt": "a cow"}\r\n\r\n  \n{"prompt": "café \u2028 au lait"}\n{"prompt": "café"}', encoding="utf-8"
    )
    lines = read_lines(path)
    assert [(line.number, line.title) for line in lines] == [
        (1, "a cow"),
        (4, "café au lait"),
        (5, "café"),
    ]
    assert not any(line.error for line in lines)
