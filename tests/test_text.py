"""Text of people: any script, any kind of space, joiners and emoji are taken; control characters are not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batch.lines import read_line
from app.errors import UsageError
from app.jobs.state import checked_title
from app.recipe_yaml import load_recipe, to_yaml
from app.recipes import MAX_PROMPT, GuideRecipe, Recipe, check, tidied
from app.reconstruct import picture_recipe
from app.settings import settings, with_settings
from app.text import control, quoted, shown, slug, tidy, to_json
from guidance.priors.text import MAX_TOKENS
from tests.test_batch import picture
from tests.tiny import text_encoder

SPACES = {"no-break": "\u00a0", "of macOS screenshots": "\u202f", "ideographic": "\u3000", "em": "\u2003"}
SPACES |= {"tab": "\t", "new line": "\n", "Windows line": "\r\n", "line separator": "\u2028", "two": "  "}
KEPT = {
    "joiner": "a 👩\u200d🚀",
    "non-joiner": "خانه\u200cها",
    "selector": "a ❤\ufe0f",
    "emoji": "🍄",
    "private": "a \uf8ff",
}
KEPT |= {"accent": "un cafe\u0301", "hyphen": "mush\u00adroom", "right to left": "\u200fבית", "hindi": "लाल मशरूम"}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_space_is_one_space(space: str) -> None:
    recipe = tidied(Recipe(f" a red{space}mushroom{space}", guide=GuideRecipe(negative=f"blurry{space}dark")))
    check(recipe)
    assert recipe.prompt == "a red mushroom" and recipe.guide.negative == "blurry dark"
    line = read_line(1, json.dumps({"prompt": f"a red{space}mushroom"}), Path())
    assert line.recipe is not None and line.recipe.prompt == "a red mushroom" == line.title
    assert checked_title(f"my{space}title ") == "my title"
    page = with_settings(Recipe("a cow"), {"guide.negative": f"blurry{space}dark"})
    assert page.guide.negative == "blurry dark"


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_joiners_marks_and_emoji_stay(text: str, tmp_path: Path) -> None:
    recipe = tidied(Recipe(text))
    check(recipe)
    assert recipe.prompt == text == checked_title(text)
    (tmp_path / "config.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "config.yaml") == recipe
    line = read_line(1, json.dumps({"prompt": text}), Path())
    assert line.recipe is not None and line.recipe.prompt == text == line.title, line.error


@pytest.mark.parametrize("text", ["a\x07cow", "a\x00cow", "a\x1b[31mcow", "a\x85\x9bcow", "a \ud83d cow", "\udcff"])
def test_control_characters_and_halves_of_characters_are_refused(text: str) -> None:
    for recipe in (Recipe(text), Recipe("a cow", guide=GuideRecipe(negative=text))):
        with pytest.raises(UsageError, match=r"control characters; use plain text on one line\.$|is empty"):
            check(tidied(recipe))
    assert "control" in read_line(1, json.dumps({"prompt": text}), Path()).error
    with pytest.raises(UsageError, match="printable"):
        checked_title(text)
    with pytest.raises(UsageError, match="printable"):
        with_settings(Recipe("a cow"), {"guide.negative": text})


@pytest.mark.parametrize("text", ["", " \u3000\n", "\u200b", "\u200d\ufe0f", "\ufeff"])
def test_what_cannot_be_seen_is_no_prompt(text: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        check(tidied(Recipe(text)))


def test_the_limit_counts_what_is_left_of_the_spaces() -> None:
    check(tidied(Recipe("a" + " " * MAX_PROMPT + "cow")))
    with pytest.raises(UsageError, match=f"501 characters; the limit is {MAX_PROMPT}"):
        check(tidied(Recipe("x" * 501)))
    with pytest.raises(UsageError, match="negative prompt has 501"):
        check(Recipe("a cow", guide=GuideRecipe(negative="x" * 501)))


@pytest.mark.parametrize(
    "name", ["Bildschirmfoto um 10.00.00\u202fAM.png", "写真\u3000１.png", "👩\u200d🚀❤\ufe0f.png"]
)
def test_a_picture_may_have_any_name(name: str, tmp_path: Path) -> None:
    picture(tmp_path / name, "red")
    line = read_line(1, json.dumps({"image": name}), tmp_path)
    assert line.pictures == (tmp_path / name,), line.error
    assert line.name() != "0001-run" or not any(c.isalnum() for c in Path(name).stem)
    assert "\n" not in line.title and not control(line.title)


def test_a_prompt_beside_a_picture_is_tidied_too() -> None:
    assert picture_recipe(Recipe("a\u00a0red \n chair"), 1).prompt == "a red chair"


def test_a_command_line_in_the_c_locale_is_utf8() -> None:
    raw = "ein Kühlschrank".encode().decode("ascii", "surrogateescape")
    assert raw != "ein Kühlschrank" and tidy(raw) == "ein Kühlschrank"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A red/../mushroom!", "a-red-mushroom"),
        ("Ein roter Käfer, café", "ein-roter-kafer-cafe"),
        ("日本の家", "日本の家"),
        ("красный гриб", "красный-гриб"),
        ("लाल मशरूम", "लाल-मशरूम"),
        ("İstanbul Å", "istanbul-a"),
        ("ﬁre x²", "fire-x2"),
        ("🍄", "run"),
        ("-rf ..", "rf"),
        ("a\u202f b\u200dc\ufe0f", "a-bc"),
    ],
)
def test_a_prompt_names_its_folder(text: str, name: str) -> None:
    assert slug(text) == name


@given(st.text(max_size=200))
def test_any_text_is_tidied_shown_and_named(text: str) -> None:
    once = tidy(text)
    assert tidy(once) == once and once == once.strip(" ") and "  " not in once
    assert not control(shown(text, 200)) and len(shown(text)) <= 80
    name = slug(text)
    assert 1 <= len(name) <= 40 and len(os.fsencode(name)) <= 100 and not set(name) & set("/\\ .\0")
    assert not name.startswith("-") and not control(name)


@given(st.dictionaries(st.text(st.characters(), max_size=5), st.text(st.characters(), max_size=9)))
def test_json_is_for_every_stream(value: dict[str, str]) -> None:
    for encoding in ("utf-8", "UTF8", "ascii", "latin-1"):
        text = to_json(value, encoding=encoding)
        assert json.loads(text.encode(encoding).decode(encoding)) == value


def test_bytes_that_are_no_text_survive_json_and_text_that_was_bytes_is_text() -> None:
    assert json.loads(to_json({"a": "x\udcff"}).encode()) == {"a": "x\udcff"}
    assert json.loads(to_json({"a": "\udcc3\udca9"}).encode()) == {"a": "é"}


def test_paths_are_quoted_for_a_shell() -> None:
    assert quoted(Path("runs/a-cow")) == "runs/a-cow"
    assert quoted(Path("my runs/a")) == "'my runs/a'" and quoted("-b") == "./-b" and quoted("#1") == "'#1'"


def test_words_past_the_last_token_are_named() -> None:
    encoder = text_encoder()
    full = " ".join(["red"] * (MAX_TOKENS - 2))
    assert encoder.split(full) == (full, "") and encoder.split("") == ("", "")
    assert encoder.split(f"{full} mushroom, blue") == (full, "mushroom, blue")
    short = " ".join(["red"] * (MAX_TOKENS - 3))
    kept, left_out = encoder.split(f"{short} toadstool hat")  # two pieces, of which one would fit
    assert (kept, left_out) == (short, "toadstool hat")
    with_and_without = encoder([f"{full} mushroom", full])
    assert with_and_without.tokens[0].equal(with_and_without.tokens[1]), "what is called left out is left out"


def test_the_names_of_settings_are_still_settings() -> None:
    assert {"guide.negative", "fdistill.divergence"} <= set(settings())
