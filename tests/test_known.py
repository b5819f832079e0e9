"""What the prior has heard of, and the fit of its confidence."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from app.errors import MissingError
from app.evaluate.nouns import eval100
from app.models import known_models, require, weights_folder
from app.pipeline import hearing
from app.recipes import GuideRecipe, Recipe
from app.run.folder import create_run
from app.run.progress import Progress
from app.training.calibrate import brier, logistic
from guidance.errors import MissingWeights
from guidance.priors.known import FILE, UNKNOWN, familiarity, load_known, plain, save_known
from guidance.priors.text import MAX_TOKENS, TextEncoder
from tests.tiny import tiny_prior


def test_a_known_name_is_nearest_to_itself_and_trusted_more_than_a_strange_one(tmp_path: Path) -> None:
    encoder = TextEncoder()
    names = ["pine tree", "wooden barrel", "police car", "refrigerator", "sofa"]
    save_known(tmp_path, encoder, names, (-4.0, 6.0))
    known = load_known(tmp_path)
    assert known is not None and known.names == names
    own = familiarity(known, encoder, "A police car")
    assert own.nearest[0][0] == "police car" and own.nearest[0][1] > 0.98
    assert familiarity(known, encoder, "a couch").nearest[0][0] == "sofa"
    near = familiarity(known, encoder, "a couch")
    assert own.confidence is not None and near.confidence is not None and 0 < near.confidence < own.confidence < 1
    assert "police car" in own.sentence("embedded", "A police car") and "%" in own.sentence("embedded", "A police car")
    assert plain("The Old House") == "old house"


def test_what_the_shipped_prior_does_not_know_has_no_percentage() -> None:
    known, encoder = load_known(weights_folder("embedded")), TextEncoder()
    assert known is not None
    for prompt in (
        "xqzt",
        "zzyzx",
        "ein roter Pilz",
        "el perro",
        "赤いきのこ",
        "красный гриб",
        "🍄",
        "...",
        "kjsdhfk",
    ):
        found = familiarity(known, encoder, prompt)
        assert found.confidence is None and found.nearest[0][1] < UNKNOWN, prompt
        sentence = found.sentence("embedded", prompt)
        assert f'does not know "{prompt}"' in sentence and "%" not in sentence and "English" in sentence
        assert json.loads(json.dumps(dataclasses.asdict(found)))["confidence"] is None
    trained = [p.text for p in eval100() if p.group in ("train", "recolour")]
    assert len(trained) == 70
    unknown = [p for p in trained if familiarity(known, encoder, p).confidence is None]
    assert unknown == []


def test_a_prior_without_the_file_has_no_confidence_and_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    assert load_known(tmp_path) is None
    (tmp_path / FILE).write_bytes(b"not safetensors")
    with pytest.raises(MissingWeights, match="damaged"):
        load_known(tmp_path)


def test_the_fit_recovers_a_logistic_curve_and_its_score_beats_the_mean() -> None:
    g = np.random.default_rng(0)
    c = g.uniform(0, 1, 4000)
    hit = (g.uniform(size=4000) < 1 / (1 + np.exp(-(-3 + 6 * c)))).astype(float)
    a, b = logistic(c, hit)
    assert a == pytest.approx(-3, abs=0.4) and b == pytest.approx(6, abs=0.6)
    assert brier(c, hit) < 0.8 * hit.var()
    assert logistic(c, 1 - hit)[1] == 0, "confidence never falls with familiarity"


def heard(recipe: Recipe, folder: Path) -> tuple[list[str], list[dict]]:
    """(notes about words that are not read, "cut" events) of a run that begins."""
    run, progress = create_run(recipe, folder), Progress(quiet=True)
    hearing(recipe, run, tiny_prior(), progress)
    path = run.folder / "events.jsonl"
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    return [n for n in progress.notes if "left out" in n], [e for e in events if e["event"] == "cut"]


def test_a_run_notes_the_words_that_the_prior_does_not_read(tmp_path: Path) -> None:
    words = "a red mushroom" + " red" * (MAX_TOKENS - 5)
    assert heard(Recipe(words), tmp_path / "a") == ([], [])
    (note,), (event,) = heard(Recipe(f"{words} and a hat"), tmp_path / "b")
    assert note.endswith('of the prompt; left out: "and a hat".') and event["left_out"] == "and a hat"
    (note,), (event,) = heard(Recipe("a red mushroom", guide=GuideRecipe(negative=f"{words} hat")), tmp_path / "c")
    assert "of the negative prompt" in note and (event["what"], event["kept"]) == ("negative prompt", words)
    (note,), _ = heard(Recipe(words, guide=GuideRecipe(view_words=True)), tmp_path / "d")
    assert 'left out: ", front view"' in note


def test_a_damaged_list_of_names_ends_a_run_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"damaged")
    with pytest.raises(MissingError, match=r"known\.safetensors is damaged; .*\.$") as caught:
        heard(Recipe("a cow", prior=str(tmp_path)), tmp_path / "run")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("config", ["[]", '{"format": 1}', "{}", "nonsense"])
def test_a_prior_with_a_strange_configuration_is_refused_in_a_sentence(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(MissingError, match=r"config\.json is not a Polymode prior's configuration; .*\.$"):
        require(str(tmp_path))
    good = json.loads((weights_folder("embedded") / "config.json").read_text(encoding="utf-8"))
    for change in ({"shards": ["a"]}, {"shards": {"../a": 3}}, {"channels": 7}, {"size": None}):
        (tmp_path / "config.json").write_text(json.dumps(good | change), encoding="utf-8")
        with pytest.raises(MissingError, match=r"\.$"):
            require(str(tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="users of POSIX")
def test_a_user_without_a_home_has_the_shipped_priors(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME")
    with pytest.raises(RuntimeError):
        Path.home()
    assert [m.state() for m in known_models()][:1] == ["ready"]
    monkeypatch.setenv("POLYMODE_MODELS", "a" * 300)
    assert "cannot be read" in next(m for m in known_models() if m.alias == "local").state()
    with pytest.raises(MissingError, match="cannot be read"):
        require("local")
