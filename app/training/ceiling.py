"""What the evaluator can do at best: its accuracy on real renders of families that it never saw. The stated ceiling.

Nouns are ranked among the classes of all 100 fixed prompts, for the held-out objects whose class is one of them.
An object's scores are the mean over its views. Front and back: each view within 31 degrees of azimuth 0 or 180.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from app.evaluate.color import color_is_right, read_color
from app.evaluate.network import Evaluator
from app.evaluate.nouns import class_scores, classes, eval100, names_of, rank_of
from app.evaluate.statistics import mean_interval
from app.evaluate.views import coloured_frames, front_and_back, own_cameras, prior_cameras
from app.training.data import Pack
from app.training.labels import front_kind, has_front, label
from app.training.recolor import CSS, repaint
from renderers.cameras import Cameras


def noun_ranks(evaluator: Evaluator, pack: Pack, indices: Sequence[int], cameras: Cameras) -> dict[str, list[int]]:
    """Ranks of the right class, by class, for the objects of `indices` whose class is a fixed prompt's."""
    kinds = classes(eval100())
    names = [n for k in kinds for n in names_of(k)]
    ranks: dict[str, list[int]] = defaultdict(list)
    for i in indices:
        kind = label(pack.rows[i]["name"])
        if kind in kinds:
            scores = evaluator(coloured_frames(pack.mesh(i), cameras), names).scores.mean(0, keepdim=True)
            ranks[kind].append(rank_of(class_scores(scores, names, kinds)[0], kinds.index(kind)))
    return dict(ranks)


def front_back(evaluator: Evaluator, pack: Pack, indices: Sequence[int], cameras: Cameras) -> list[dict[str, Any]]:
    """For each object with a front: its class, kind of thing, and the shares of its views that are called front."""
    front, back = front_and_back(cameras.azimuth)
    seen = []
    for i in indices:
        row = pack.rows[i]
        if not has_front(row):
            continue
        called = evaluator(coloured_frames(pack.mesh(i), cameras), ["thing"]).front > 0
        seen.append(
            {
                "kind": label(row["name"]),
                "name": row["name"],
                "group": front_kind(row),
                "front_called_front": called[front].float().mean().item(),
                "back_called_front": called[back].float().mean().item(),
            }
        )
    return seen


def summarise_front_back(seen: list[dict[str, Any]], key: str) -> dict[str, dict[str, float]]:
    """By `seen[key]`: objects, accuracy over front and back views, share of back views called front."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for s in seen:
        groups[s[key]].append(s)
    return {
        name: {
            "objects": len(g),
            "accuracy": sum(s["front_called_front"] + 1 - s["back_called_front"] for s in g) / (2 * len(g)),
            "back_called_front": sum(s["back_called_front"] for s in g) / len(g),
        }
        for name, g in sorted(groups.items())
    }


def recoloured(evaluator: Evaluator, pack: Pack, indices: Sequence[int], repeats: int = 3) -> dict[str, Any]:
    """Held-out objects of the prompts' classes in known colours (each in `repeats` of the CSS shades, dealt in turn):
    how often the colour is read right, by colour, and what becomes of the noun's rank."""
    kinds = classes(eval100())
    names = [n for k in kinds for n in names_of(k)]
    shades = [(name, code) for k in range(3) for name, codes in CSS.items() for code in codes[k : k + 1]]
    right: dict[str, list[float]] = defaultdict(list)
    first, confused, turn = [], [], 0
    for i in indices:
        kind = label(pack.rows[i]["name"])
        if kind not in kinds:
            continue
        for _ in range(repeats):
            name, code = shades[turn % len(shades)]
            turn += 1
            frames = coloured_frames(repaint(pack.mesh(i), code), own_cameras())
            reading = read_color(frames)
            right[name].append(float(color_is_right(reading, name)))
            if not right[name][-1] and reading.shares:
                seen = ", ".join(f"{k} {v:.2f}" for k, v in sorted(reading.shares.items(), key=lambda x: -x[1])[:3])
                confused.append(f"{pack.rows[i]['name']} in {name} {code}: {seen}")
            scores = evaluator(frames, names).scores.mean(0, keepdim=True)
            first.append(float(rank_of(class_scores(scores, names, kinds)[0], kinds.index(kind)) == 1))
    return {
        "objects": len(first),
        "colour right": mean_interval([v for vs in right.values() for v in vs]),
        "by colour": {k: sum(v) / len(v) for k, v in right.items()},
        "R@1": mean_interval(first),
        "misread": confused,
    }


def _summary(ranks: dict[str, list[int]]) -> dict[str, Any]:
    flat = [float(r) for rs in ranks.values() for r in rs]
    macro = [sum(r == 1 for r in rs) / len(rs) for rs in ranks.values()]
    one, five = [float(r == 1) for r in flat], [float(r <= 5) for r in flat]
    return {
        "objects": len(flat),
        "classes": len(ranks),
        "R@1": mean_interval(one),
        "R@5": mean_interval(five),
        "R@1 mean over classes": round(sum(macro) / max(1, len(macro)), 4),
    }


def measure_ceiling(
    evaluator: Evaluator, pack: Pack, training: Sequence[int], held_out: Sequence[int]
) -> dict[str, Any]:
    """Everything that config.json states about held-out renders, and the same for training families to compare."""
    held = noun_ranks(evaluator, pack, held_out, own_cameras())
    step = max(1, len(training) // 700)
    some = list(training)[::step]
    kinds = classes(eval100())
    known = {label(pack.rows[i]["name"]) for i in training}
    seen = front_back(evaluator, pack, held_out, own_cameras())
    seen_prior = front_back(evaluator, pack, held_out, prior_cameras())

    def round_all(x: Any) -> Any:
        if isinstance(x, dict):
            return {k: round_all(v) for k, v in x.items()}
        return round(x, 4) if isinstance(x, float) else x

    return round_all(
        {
            "chance_R@1": 1 / len(kinds),
            "held_out_12_own_views": _summary(held),
            "held_out_4_prior_views": _summary(noun_ranks(evaluator, pack, held_out, prior_cameras())),
            "training_12_own_views": _summary(noun_ranks(evaluator, pack, some, own_cameras())),
            "ranks_by_class": {k: sorted(held[k]) for k in kinds if k in held},
            "classes_without_any_object": [k for k in kinds if k not in known],
            "classes_without_held_out_object": [k for k in kinds if k in known and k not in held],
            "recoloured_held_out": recoloured(evaluator, pack, held_out),
            "front_back": summarise_front_back(seen, "group"),
            "front_back_prior_views": summarise_front_back(seen_prior, "group"),
            "front_back_by_name": summarise_front_back(seen, "name"),
        }
    )
