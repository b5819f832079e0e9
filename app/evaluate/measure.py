"""One object's frames and its prompt to a record; records to the table by group.

Group rows average over prompts (several runs of one prompt count once) with 95 % bootstrap intervals. Excess Janus:
over prompts of qualified nouns, the share of back views called front minus the same share on held-out real renders. A
noun (of nouns.VIEW_DISTINCT) qualifies if the evaluator tells front from back in at least 95 % of the held-out
real views of its kind of thing, of at least FEWEST objects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from app.evaluate.color import color_is_right, read_color
from app.evaluate.network import Evaluator
from app.evaluate.nouns import GROUPS, VIEW_DISTINCT, Prompt, class_scores, names_of, rank_of
from app.evaluate.statistics import mean_interval
from app.evaluate.views import front_and_back

QUALIFIED, FEWEST = 0.95, 4
METRICS = ("R@1", "R@5", "color", "saturation", "janus")


@dataclass(frozen=True)
class Record:
    """What is measured on one object. `rank` of its noun's class among `classes` classes; `best` the classes ranked
    first; `color_right` None without an asked colour; `back_called_front` the share of its back views that look like
    fronts, `janus` the excess over real renders, both None where the noun is not qualified or has no back view."""

    prompt: Prompt
    source: str
    rank: int
    classes: int
    best: list[str]
    color_right: bool | None
    shares: dict[str, float] | None
    saturation: float | None
    back_called_front: float | None
    janus: float | None

    def row(self) -> dict[str, Any]:
        p = self.prompt
        head = {"group": p.group, "prompt": p.text, "noun": p.noun, "class": p.kind, "color": p.color}
        shares = {k: round(v, 4) for k, v in self.shares.items() if v >= 0.005} if self.shares else None
        rest = {k: getattr(self, k) for k in ("source", "rank", "classes", "best", "color_right")}
        tail = {k: getattr(self, k) for k in ("saturation", "back_called_front", "janus")}
        return head | rest | {"shares": shares} | tail


def qualified(evaluator: Evaluator, section: str = "front_back") -> dict[str, float]:
    """The share of real back views called front, for each qualified class; `section` of config.json's ceiling:
    "front_back" for the evaluator's own cameras, "front_back_prior_views" for the prior's."""
    kinds = evaluator.config["ceiling"][section]
    good = {k for k, r in kinds.items() if r["accuracy"] >= QUALIFIED and r["objects"] >= FEWEST}
    return {c: kinds[k]["back_called_front"] for c, k in VIEW_DISTINCT.items() if k in good}


def measure(
    evaluator: Evaluator,
    frames: Tensor,
    azimuth: Tensor,
    prompt: Prompt,
    kinds: Sequence[str],
    source: str,
    real_back: dict[str, float],
) -> Record:
    """Measure one object's frames (B, 7, 64, 64), seen from `azimuth` (B,) radians, against classes `kinds`; the
    prompt's class joins them if it is not there. `real_back`: see `qualified`."""
    kinds = list(dict.fromkeys([*kinds, prompt.kind]))
    names = [n for k in kinds for n in names_of(k)]
    views = evaluator(frames, names)
    scores = class_scores(views.scores.mean(0, keepdim=True), names, kinds)[0]
    order = scores.argsort(descending=True).tolist()
    color = read_color(frames)
    back = front_and_back(azimuth)[1]
    called = janus = None
    if prompt.kind in real_back and bool(back.any()):
        called = float((views.front[back] > 0).float().mean())
        janus = called - real_back[prompt.kind]
    return Record(
        prompt,
        source,
        rank_of(scores, kinds.index(prompt.kind)),
        len(kinds),
        [kinds[i] for i in order[:5]],
        None if prompt.color is None else color_is_right(color, prompt.color),
        color.shares,
        color.chroma,
        called,
        janus,
    )


_VALUES: dict[str, Callable[[Record], float | bool | None]] = {
    "R@1": lambda r: r.rank == 1,
    "R@5": lambda r: r.rank <= 5,
    "color": lambda r: r.color_right,
    "saturation": lambda r: r.saturation,
    "janus": lambda r: r.janus,
}


def table(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Rows of groups that have records, then "all": prompts, and for each metric [mean, low, high] or None, with the
    number of prompts behind it as "METRIC n"."""
    rows = []
    for group in (*GROUPS, "other", "all"):
        mine = [r for r in records if group in (r.prompt.group, "all")]
        if not mine:
            continue
        row: dict[str, Any] = {"group": group, "prompts": len({r.prompt.text for r in mine}), "objects": len(mine)}
        for metric in METRICS:
            by_prompt: dict[str, list[float]] = defaultdict(list)
            for r in mine:
                value = _VALUES[metric](r)
                if value is not None:
                    by_prompt[r.prompt.text].append(float(value))
            means = [sum(v) / len(v) for v in by_prompt.values()]
            row[metric] = mean_interval(means)
            row[f"{metric} n"] = len(means)
        rows.append(row)
    return rows
