"""What the prior has heard of, and the fit of its confidence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from app.evaluate.nouns import eval100
from app.models import weights_folder
from app.training.calibrate import brier, logistic
from guidance.errors import MissingWeights
from guidance.priors.known import FILE, UNKNOWN, familiarity, load_known, plain, save_known
from guidance.priors.text import TextEncoder


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
