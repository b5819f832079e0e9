"""Comparison: its measures on known features, its cells, its report, and the command as a process."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.compare.cells import (
    Made,
    ball_frames,
    cell_path,
    feature_views,
    frame_views,
    load_made,
    reference_frames,
    save_made,
)
from app.compare.command import checked, keys, prepare
from app.compare.measures import (
    Cell,
    distances,
    equal_vendi,
    group_of,
    mean_distance,
    measure_cell,
    modes,
    paired,
    ratio_interval,
    same_mode,
    summary,
    vendi,
    vendi_of,
)
from app.compare.options import DDIM, Compare
from app.errors import UsageError
from app.evaluate.network import load_evaluator
from app.evaluate.nouns import classes, eval100, prompt_of
from app.recipes import DirectRecipe, FieldRecipe
from guidance.dsd import DSD, PathGuidance
from guidance.method import Asked, Setup
from guidance.prior import Views
from guidance.start import start
from tests.test_cli import polymode, sentence
from tests.tiny import tiny_prior


def turned(*degrees: float) -> list[Tensor]:
    """Unit features (4, 2), the same in every view."""
    angles = [math.radians(d) for d in degrees]
    return [torch.tensor([math.cos(a), math.sin(a)]).expand(4, 2) for a in angles]


# --- measures ---


def test_distances_are_one_minus_cosines() -> None:
    d = distances(turned(0, 60, 90))
    torch.testing.assert_close(d, torch.tensor([[0, 0.5, 1], [0.5, 0, d[1, 2]], [1, d[1, 2], 0]]).double())
    assert mean_distance(turned(0, 90)) == pytest.approx(1) and mean_distance(turned(0)) is None


def test_the_vendi_score_counts_what_is_different() -> None:
    assert vendi(turned(0, 90)) == pytest.approx(2, rel=1e-6)
    assert vendi(turned(0, 0, 0)) == pytest.approx(1, rel=1e-6)
    assert vendi(turned(0, 0, 90)) == pytest.approx(math.exp(math.log(3) - 2 / 3 * math.log(2)), rel=1e-6)
    assert vendi(turned(10)) == pytest.approx(1)
    assert vendi_of(turned(0), 2) is None
    assert vendi_of(turned(0, 0, 90), 2) == pytest.approx((1 + 2 + 2) / 3)


def test_vendi_scores_are_compared_at_one_n() -> None:
    """Two seeds against four: four different ones have twice the score of two by their number alone."""
    reference = turned(0, 30, 60, 90)
    few = group_of([cell("a", "few", i, 1, f) for i, f in enumerate(turned(0, 90))], reference)
    many = [cell("a", "many", i, 1, f) for i, f in enumerate(turned(0, 90, 180, 270))]
    many[3] = dataclasses.replace(many[3], rank=9)  # does not count
    ((one, other),) = equal_vendi([few], [group_of(many, reference)])
    assert one == pytest.approx(2) and other == pytest.approx(vendi_of(turned(0, 90, 180), 2) or 0)
    assert equal_vendi([few], [group_of(many[:1], reference)]) == []


def test_modes_link_near_seeds() -> None:
    assert modes(turned(0, 5, 90, 10, 95), 1 - math.cos(math.radians(6))) == [0, 0, 1, 0, 1]
    assert modes(turned(0, 90), 0.0) == [0, 1] and modes([], 1.0) == []
    assert same_mode(turned(0, 60, 120)) == pytest.approx(0.5, abs=1e-3)  # the near pairs' distance


def cell(prompt: str, method: str, seed: int, rank: int, feature: Tensor, **more) -> Cell:
    return Cell(prompt, method, seed, rank, more.get("margin", 0.0), more.get("saturation", 50.0), features=feature)


def test_diversity_counts_only_seeds_that_rank_the_prompt_in_the_first_five() -> None:
    reference = turned(0, 30, 60, 90)
    ranks = (1, 5, 6, 40)
    cells = [cell("a", "m", i, r, f) for i, (r, f) in enumerate(zip(ranks, turned(0, 60, 90, 120), strict=True))]
    g = group_of(cells, reference)
    assert g.values["diversity"] == pytest.approx(0.5) and g.values["R@5"] == 0.5 and g.values["R@1"] == 0.25
    assert g.values["diversity, all seeds"] != g.values["diversity"]
    lost = group_of([Cell("a", "m", 0, collapsed="The mesh is empty.")], reference)
    assert lost.values["diversity"] is None and lost.values["kernel distance"] is None and lost.values["R@1"] == 0


def test_paired_differences_and_ratios_are_over_the_same_prompts() -> None:
    reference = turned(0, 30, 60, 90)
    groups = []
    for prompt, angle in (("a", 30), ("b", 60)):
        for method, wide, saturation in (("ddim", 2.0, 50.0), ("sds", 1.0, 80.0), ("dsd", 2.0, 60.0)):
            seeds = turned(0, angle * wide / 2)
            groups.append(
                group_of(
                    [cell(prompt, method, i, 1, f, margin=wide, saturation=saturation) for i, f in enumerate(seeds)],
                    reference,
                )
            )
    rows = paired(groups, ["dsd", "sds"], "sds", DDIM)
    assert list(rows) == ["dsd"]
    near, far = (1 - math.cos(math.radians(d)) for d in (15, 30))
    a, b = 1 - math.cos(math.radians(30)), 1 - math.cos(math.radians(60))
    assert rows["dsd"]["diversity, ratio"][0] == pytest.approx((a + b) / (near + far))
    assert rows["dsd"]["margin, difference"] == [1], "two prompts have no interval"
    assert rows["dsd"]["saturation gap, difference"] == [-20]
    assert rows["dsd"]["janus, difference"] is None and rows["dsd"]["n"]["diversity"] == 2
    table = summary(groups, ["sds", "dsd"])
    assert table["sds"]["margin"] == [1] and table["sds"]["n"]["margin"] == 2


def test_a_ratio_of_means_has_an_interval_around_it() -> None:
    found = ratio_interval([2.0, 4.0, 6.0, 9.0, 2.0], [1.0, 2.0, 4.0, 4.0, 1.0])
    assert found is not None and found[0] == pytest.approx(23 / 12) and found[1] < found[0] < found[2]
    assert ratio_interval([2.0, 4.0], [1.0, 2.0]) == [2.0], "two prompts have no interval"
    assert ratio_interval([], []) is None and ratio_interval([1.0], [0.0]) is None


def test_a_cell_of_the_evaluator() -> None:
    evaluator = load_evaluator()
    prompt = prompt_of("a red mushroom", eval100())
    kinds = classes([*eval100(), prompt])
    frames = ball_frames(FieldRecipe(), frame_views(15, False), 64, torch.Generator().manual_seed(0))
    facts = {"frame_forwards": 3, "seconds": 1.5, "collapsed": None}
    made = Made(frames, None, None, facts)
    c = measure_cell(evaluator, made, ("a red mushroom", "sds", 0), prompt, kinds)
    assert c.rank is not None and 1 < c.rank <= len(kinds) and c.margin is not None and c.margin < 0
    assert c.saturation is not None and c.saturation < 5, "a grey ball has no colour"
    assert c.janus is None and c.frame_forwards == 3
    nothing = measure_cell(evaluator, Made(None, None, None, facts | {"collapsed": "Empty."}), c_key(c), prompt, kinds)
    assert nothing.rank is None and nothing.collapsed == "Empty." and not nothing.counts


def c_key(c: Cell) -> tuple[str, str, int]:
    return c.prompt, c.method, c.seed


def test_cells_are_read_back(tmp_path: Path) -> None:
    frames = torch.rand(4, 7, 8, 8)
    save_made(tmp_path / "x" / "sds-0.safetensors", Made(frames, None, None, {"seconds": 1.25, "collapsed": None}))
    back = load_made(tmp_path / "x" / "sds-0.safetensors")
    assert back.frames is not None and float((back.frames - frames).abs().max()) <= 0.5 / 255 + 1e-6
    assert back.judged is None and back.turntable is None and back.facts == {"seconds": 1.25, "collapsed": None}


# --- the command ---


@pytest.mark.parametrize(
    "change, words",
    [
        ({"prompts": ("  ",)}, "Unknown|empty|Say"),
        ({"methods": "sds,newton"}, "Unknown method 'newton'"),
        ({"methods": " , "}, "names no method"),
        ({"methods": "direct"}, "use --space 3d"),
        ({"methods": "dsd:hold"}, "'hold' is no SETTING=VALUE"),
        ({"methods": "dsd:grip=1"}, "'grip=1' names no setting"),
        ({"methods": "dsd:hold=firm"}, "'firm' is no float"),
        ({"methods": "sds:guide.cfg.kind=best"}, "Unknown kind of classifier-free guidance 'best'"),
        ({"seeds": 0}, "--seeds 0 is out of range"),
        ({"reference": 1}, "--reference 1 is out of range"),
    ],
)
def test_bad_options_get_one_sentence(change: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        checked(dataclasses.replace(Compare(("a red mushroom",)), **change))


def test_a_folder_holds_one_comparison(tmp_path: Path) -> None:
    a = dataclasses.replace(Compare(("a red mushroom",)), out=tmp_path / "c")
    prepare(a)
    prepare(dataclasses.replace(a, seeds=9, methods="sds", prompts=("a key",)))  # more of the same
    with pytest.raises(UsageError, match="other settings"):
        prepare(dataclasses.replace(a, blind_camera=True))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        prepare(dataclasses.replace(a, out=tmp_path / "own"))
    assert (tmp_path / "own" / "thesis.txt").read_text() == "mine"


def test_cells_come_prompt_by_prompt_with_the_prior_first() -> None:
    a = checked(Compare(("b", "a", "b"), methods="ssd,sds,ssd", seeds=2))
    assert keys(a)[:6] == [("b", m, s) for m in (DDIM, "ssd", "sds") for s in (0, 1)] and len(keys(a)) == 12
    assert dataclasses.replace(a, space="3d").rows() == [DDIM, "direct", "ssd", "sds"]
    assert dataclasses.replace(a, space="3d", methods="sds,direct").rows() == [DDIM, "sds", "direct"]


def test_a_row_is_a_method_or_one_with_other_settings() -> None:
    a = checked(Compare(("a",), methods="sds,dsd"))
    assert a.rows() == [DDIM, "sds", "dsd", "dsd:hold=0"], "with its hold, pixels are the prior's own sample"
    assert dataclasses.replace(a, space="3d").rows() == [DDIM, "direct", "sds", "dsd"]
    free = a.recipe("a", "dsd:hold=0:context=false", 1)
    assert free.method == "dsd" and free.methods.dsd.hold == 0.0 and free.methods.dsd.context is False
    other = a.recipe("a", "sds:guide.cfg.kind=rescale:guide.cfg.rescale=0.5", 0)
    assert other.guide.cfg.kind == "rescale" and other.guide.cfg.rescale == 0.5
    rows = [*a.rows(), "sds:guide.clip=1", "sds:guide.clip=-1", "sds:prior=a/b"]
    names = [cell_path(Path("x"), "a", row, 0) for row in rows]
    assert len({str(n) for n in names}) == len(rows) and all(len(n.parts) == 4 for n in names)
    long = "a very long prompt about a wooden barrel of "
    prompts = ["a key", "a  key!", "A key", long + "beer", long + "wine", "🙂", "🙃"]
    assert len({cell_path(Path("x"), p, "sds", 0) for p in prompts}) == len(prompts)
    assert cell_path(Path("x"), "a key", "sds", 0).parts[2] == "a-key"


def test_features_of_meshes_look_from_cameras_that_no_method_works_on() -> None:
    def places(views: Views) -> set[tuple[float, float]]:
        degrees = zip(views.azimuth.rad2deg().tolist(), views.elevation.rad2deg().tolist(), strict=True)
        return {(round(a % 360, 1), round(e, 1)) for a, e in degrees}

    prior = tiny_prior()
    dsd = start(DSD(), Setup(prior, Asked("a"), 3.0))
    assert isinstance(dsd, PathGuidance)
    d = DirectRecipe()
    direct = {(round(k * 45.0, 1), d.elevation) for k in range(8)}
    worked = direct | {p for s in dsd.sets for p in places(s)}
    a = Compare(("a",), space="3d")
    assert not places(feature_views(a)) & worked
    assert places(feature_views(dataclasses.replace(a, space="image"))) <= worked
    frames = reference_frames(dataclasses.replace(a, reference=2), "a", prior)
    assert frames.shape == (8, *prior.frame_shape), "the samples they are compared with look from there, too"


SMALL = ["--methods", "sds,dsd", "--seeds", "2", "--image.steps", "3", "--reference", "2", "--dsd.knots", "3"]


def test_compare_as_a_process_and_again(tmp_path: Path) -> None:
    out = tmp_path / "comparison"
    first = polymode("compare", "a red mushroom", *SMALL, "--out", str(out), "--json")
    assert first.returncode == 0, first.stderr
    printed = json.loads(first.stdout)
    assert printed["status"] == "done" and set(printed["summary"]) == {"ddim", "sds", "dsd", "dsd:hold=0"}
    results = json.loads((out / "results.json").read_text())
    assert len(results["cells"]) == 8 and all(c["collapsed"] is None for c in results["cells"])
    sds = [c for c in results["cells"] if c["method"] == "sds"]
    assert [c["frame_forwards"] for c in sds] == [3 * 4 * 2] * 2 and all(c["rank"] >= 1 for c in sds)
    assert results["paired"]["dsd"]["margin, difference"] is not None
    page = (out / "report.html").read_text()
    assert page.count('<img src="data:image/webp;base64,') >= 6 and not re.search(r'(src|href)="(?!data:)', page)
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    more = polymode("compare", "a red mushroom", *SMALL[:3], "3", *SMALL[4:], "--out", str(out))
    assert more.returncode == 0 and "dsd" in more.stdout, more.stderr
    assert all(p.stat().st_mtime_ns == s for p, s in stamps.items()), "finished cells are not made again"
    assert len(json.loads((out / "results.json").read_text())["cells"]) == 12
    other = polymode("compare", "a red mushroom", *SMALL, "--image.rate", "0.5", "--out", str(out))
    assert "other settings" in sentence(other, 2)


def test_compare_in_3d_as_a_process(tmp_path: Path) -> None:
    out = tmp_path / "comparison"
    steps = ["--field.steps", "4", "--refine.steps", "2", "--mesh.resolution", "40", "--mesh.faces", "800"]
    how = ["--methods", "sds", "--space", "3d", "--seeds", "1", "--reference", "2", "--direct.hull", "40"]
    result = polymode("compare", "a red mushroom", *how, *steps, "--out", str(out))
    assert result.returncode == 0, result.stderr
    results = json.loads((out / "results.json").read_text())
    assert {c["method"] for c in results["cells"]} == {"ddim", "direct", "sds"}
    made = load_made(out / "cells" / "a-red-mushroom" / "sds-0.safetensors")
    assert made.judged is not None and made.judged.shape == (12, 7, 64, 64) and made.turntable is not None
    assert (out / "runs" / "a-red-mushroom" / "sds-0" / "config.yaml").is_file(), "a run can be repeated"
