"""What a comparison measures: each cell, each prompt and method over its seeds, each method over prompts.

    margin           the evaluator's score of the prompt's class minus the best other class's
    distance         of two seeds: 1 - mean over views of the cosine of their features
    diversity        mean distance of all pairs of seeds that rank the prompt's class in the first five
    Vendi score      exp of the entropy of the eigenvalues of K/n, K = 1 - distance (2210.02410), of the same seeds:
                     1 to n, so only scores of one n are compared: the mean over all subsets of n seeds
    kernel distance  between the features of a method's frames and those of the prior's samples of the same prompt,
                     features as they are, pairs of one object left out
    same mode        seeds linked by distances under the 10th percentile of those between the prior's own samples

Diversity, kernel distance and modes look from four cameras: in pixels the prior's own, in space 3d others
(app/compare/cells.py); rank, margin, Janus and saturation in space 3d from the evaluator's own twelve. Intervals are
bootstraps over at least FEWEST prompts.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from app.compare.cells import Made
from app.evaluate.color import read_color
from app.evaluate.measure import qualified
from app.evaluate.network import Evaluator
from app.evaluate.nouns import Prompt, class_scores, names_of, rank_of
from app.evaluate.statistics import FEWEST, RESAMPLES, kernel_distance, mean_interval
from app.evaluate.views import front_and_back, own_cameras, prior_cameras

FIRST = 5  # diversity counts seeds whose class is among so many
MOST_SUBSETS = 256
SAME = 0.1  # quantile of the samples' own distances


@dataclass(frozen=True)
class Cell:
    """What is measured of one cell. `features` (4, D), or None where there is nothing to look at."""

    prompt: str
    method: str
    seed: int
    rank: int | None = None
    margin: float | None = None
    saturation: float | None = None
    janus: float | None = None
    frame_forwards: int = 0
    seconds: float = 0.0
    collapsed: str | None = None
    features: Tensor | None = field(default=None, repr=False)

    @property
    def counts(self) -> bool:
        """Whether it counts for diversity."""
        return self.rank is not None and self.rank <= FIRST

    def row(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "features"}


def features_of(evaluator: Evaluator, frames: Tensor) -> Tensor:
    """(B, D) features of frames (B, 7, 64, 64)."""
    return evaluator(frames, ["thing"]).features


def measure_cell(
    evaluator: Evaluator, made: Made, key: tuple[str, str, int], prompt: Prompt, kinds: Sequence[str]
) -> Cell:
    """Measure one cell against the classes `kinds`, the prompt's class among them."""
    facts = made.facts
    cell = Cell(*key, frame_forwards=facts["frame_forwards"], seconds=facts["seconds"], collapsed=facts["collapsed"])
    if made.frames is None:
        return cell
    judged = made.frames if made.judged is None else made.judged
    azimuth = (prior_cameras() if made.judged is None else own_cameras()).azimuth
    straight = made.facts.get("turned", 0.0) == 0 or made.judged is not None  # else no view is front or back
    names = [n for k in kinds for n in names_of(k)]
    views = evaluator(judged, names)
    scores = class_scores(views.scores.mean(0, keepdim=True), names, kinds)[0]
    right = list(kinds).index(prompt.kind)
    others = torch.cat([scores[:right], scores[right + 1 :]])
    real = qualified(evaluator, "front_back_prior_views" if made.judged is None else "front_back")
    janus = None
    if prompt.kind in real and straight:
        back = front_and_back(azimuth)[1]
        janus = float((views.front[back] > 0).float().mean()) - real[prompt.kind]
    return replace(
        cell,
        rank=rank_of(scores, right),
        margin=float(scores[right] - others.max()),
        saturation=read_color(judged).chroma,
        janus=janus,
        features=features_of(evaluator, made.frames),
    )


def distances(features: Sequence[Tensor]) -> Tensor:
    """(n, n) distances of n objects' features (V, D), view by view."""
    x = F.normalize(torch.stack(list(features)).double(), dim=2)
    return (1 - torch.einsum("ivd,jvd->ij", x, x) / x.shape[1]).fill_diagonal_(0).clamp(min=0)


def mean_distance(features: Sequence[Tensor]) -> float | None:
    """Mean over pairs; None without a pair."""
    d = distances(features) if len(features) > 1 else None
    return None if d is None else float(d.sum() / (len(d) * (len(d) - 1)))


def vendi(features: Sequence[Tensor]) -> float:
    """The Vendi score of n objects, 1 to n."""
    values = torch.linalg.eigvalsh((1 - distances(features)) / len(features)).clamp(min=0)
    values = values[values > 1e-12]
    return float(torch.exp(-(values * values.log()).sum()))


def vendi_of(features: Sequence[Tensor], n: int) -> float | None:
    """Mean Vendi score over all subsets of n objects (over MOST_SUBSETS of them where there are more); None where
    there is none."""
    subsets = islice(combinations(features, n), MOST_SUBSETS)
    scores = [vendi(s) for s in subsets]
    return statistics.fmean(scores) if scores else None


def same_mode(reference: Sequence[Tensor]) -> float:
    """The distance under which two seeds are in one mode, from samples of the prior."""
    d = distances(reference)
    pairs = [float(d[i, j]) for i, j in combinations(range(len(d)), 2)]
    return float(torch.tensor(pairs).quantile(SAME))


def modes(features: Sequence[Tensor], threshold: float) -> list[int]:
    """A mode's number for each seed: seeds linked by distances under the threshold share it; numbered by first
    appearance."""
    owner = list(range(len(features)))
    d = distances(features) if features else torch.zeros(0, 0)
    for i, j in combinations(range(len(features)), 2):
        if float(d[i, j]) < threshold:
            owner = [owner[i] if o == owner[j] else o for o in owner]
    order = list(dict.fromkeys(owner))
    return [order.index(o) for o in owner]


@dataclass(frozen=True)
class Group:
    """One prompt and method: means over its seeds, and what only several seeds have."""

    prompt: str
    method: str
    values: dict[str, float | None]
    modes: dict[int, int]
    """seed: its mode."""
    vendi: dict[int, float] = field(default_factory=dict)
    """n: mean Vendi score of n seeds that count."""


MEANS = ("margin", "saturation", "janus", "frame_forwards", "seconds")


def group_of(cells: Sequence[Cell], reference: Sequence[Tensor]) -> Group:
    """The seeds of one prompt and method. `reference`: features (4, D) of the prior's samples."""
    alive = [c for c in cells if c.features is not None]
    good = [c.features for c in alive if c.counts and c.features is not None]
    features = [c.features for c in alive if c.features is not None]

    def mean(name: str) -> float | None:
        values = [float(v) for c in cells if (v := getattr(c, name)) is not None]
        return statistics.fmean(values) if values else None

    values = {name: mean(name) for name in MEANS}
    values["R@1"] = statistics.fmean(c.rank == 1 for c in cells)
    values["R@5"] = statistics.fmean(c.counts for c in cells)
    values["diversity"], values["vendi of 2"] = mean_distance(good), vendi_of(good, 2)
    values["diversity, all seeds"] = mean_distance(features)
    enough = len(features) > 1 and len(reference) > 1
    far = kernel_distance(torch.cat(features), torch.cat(list(reference)), len(reference[0])) if enough else None
    values["kernel distance"] = far
    found = modes(features, same_mode(reference))
    values["modes a seed"] = len(set(found)) / len(found) if found else None
    numbered = {c.seed: m for c, m in zip(alive, found, strict=True)}
    scores = {n: v for n in range(2, len(good) + 1) if (v := vendi_of(good, n)) is not None}
    return Group(cells[0].prompt, cells[0].method, values, numbered, scores)


def ratio_interval(above: Sequence[float], below: Sequence[float], seed: int = 0) -> list[float] | None:
    """[mean(above) / mean(below), low, high] over paired values, 95 % bootstrap over the pairs; without an interval
    where they are fewer than FEWEST."""
    if not above or sum(below) <= 0:
        return None
    if len(above) < FEWEST:
        return [sum(above) / sum(below)]
    a, b = torch.tensor(above, dtype=torch.float64), torch.tensor(below, dtype=torch.float64)
    picks = torch.randint(len(a), (RESAMPLES, len(a)), generator=torch.Generator().manual_seed(seed))
    means = a[picks].mean(1) / b[picks].mean(1).clamp(min=1e-12)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return [float(a.mean() / b.mean()), low, high]


def column(groups: Sequence[Group], name: str) -> dict[str, float]:
    """prompt: value, where there is one."""
    return {g.prompt: v for g in groups if (v := g.values[name]) is not None}


def summary(groups: Sequence[Group], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """method: metric: [mean, low, high] over prompts, or None; "n": prompts behind each."""
    rows = {}
    for m in methods:
        mine = [g for g in groups if g.method == m]
        values = {name: column(mine, name) for name in mine[0].values}
        rows[m] = {name: mean_interval(list(v.values())) for name, v in values.items()}
        rows[m]["n"] = {name: len(v) for name, v in values.items()}
    return rows


DIFFERENCES = ("margin", "R@1", "janus", "saturation", "kernel distance", "modes a seed")
RATIOS = ("diversity", "diversity, all seeds")


def equal_vendi(mine: Sequence[Group], other: Sequence[Group]) -> list[tuple[float, float]]:
    """Vendi scores of both, prompt by prompt, each at the largest number of seeds that count in both."""
    of = {g.prompt: g.vendi for g in other}
    pairs = [(g.vendi, of.get(g.prompt, {})) for g in mine]
    return [(a[n], b[n]) for a, b in pairs if (n := max(set(a) & set(b), default=0))]


def paired(groups: Sequence[Group], methods: Sequence[str], base: str, ceiling: str) -> dict[str, dict[str, Any]]:
    """Each method against `base` on the same prompts: differences, ratios, and how much nearer its saturation is to
    the prior's samples (negative: nearer)."""
    of = {m: [g for g in groups if g.method == m] for m in (*methods, base, ceiling)}
    prior = column(of[ceiling], "saturation")
    rows: dict[str, dict[str, Any]] = {}
    for m in methods:
        if m == base:
            continue
        row: dict[str, Any] = {"n": {}}
        for name in (*DIFFERENCES, *RATIOS):
            mine, other = column(of[m], name), column(of[base], name)
            both = [p for p in mine if p in other]
            row["n"][name] = len(both)
            if name in RATIOS:
                row[f"{name}, ratio"] = ratio_interval([mine[p] for p in both], [other[p] for p in both])
            else:
                row[f"{name}, difference"] = mean_interval([mine[p] - other[p] for p in both])
        scores = equal_vendi(of[m], of[base])
        row["n"]["vendi"] = len(scores)
        row["vendi, ratio"] = ratio_interval([a for a, _ in scores], [b for _, b in scores])
        mine, other = column(of[m], "saturation"), column(of[base], "saturation")
        both = [p for p in mine if p in other and p in prior]
        nearer = [abs(mine[p] - prior[p]) - abs(other[p] - prior[p]) for p in both]
        row["saturation gap, difference"] = mean_interval(nearer)
        rows[m] = row
    return rows
