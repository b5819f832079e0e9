"""report.html, one file without links, and results.json."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from app.compare.cells import Made, cell_path, load_made, reference_frames, save_made
from app.compare.measures import Cell, Group, features_of, group_of, measure_cell, paired, summary
from app.compare.options import DDIM, Compare
from app.evaluate.network import Evaluator, load_evaluator
from app.evaluate.nouns import classes, eval100, prompt_of
from app.evaluate.report import write_results
from app.evaluate.statistics import interval_text
from app.export.glb import write_atomically
from app.export.preview import to_bytes
from guidance.priors.embedded import EmbeddedPrior
from guidance.settings import VIEWS

COLUMNS = (
    ("R@1", 100, 0),
    ("R@5", 100, 0),
    ("margin", 1, 3),
    ("kernel distance", 1, 3),
    ("diversity", 1, 3),
    ("diversity, all seeds", 1, 3),
    ("vendi of 2", 1, 2),
    ("modes a seed", 1, 2),
    ("janus", 100, 0),
    ("saturation", 1, 0),
    ("frame_forwards", 1, 0),
    ("seconds", 1, 0),
)
NOTE = """R@1, R@5 and excess Janus in percent; saturation in CIELAB chroma; mean [95 % bootstrap interval over
prompts]. Margin: the evaluator's score of the right class minus the best other one's. Kernel distance: to samples
of the prior of the same prompt that are in no row. Diversity: mean feature distance over pairs of seeds that rank
the right class in the first five; Vendi score of two of the same (ratios: of as many seeds as count in both).
Modes a seed: 1 where no two seeds ended in the same mode. Fewer than five prompts have no interval. ddim: the
prior's own samples, the ceiling of every method; direct: the same fused into a mesh. In pixels dsd with its hold
is the prior's own DDIM sample by construction (each seed's path ends in one, and pixels can follow it): dsd:hold=0
is the paper's estimator."""
STYLE = """body{font:14px system-ui,sans-serif;margin:24px;max-width:1500px;color:#222}table{border-collapse:collapse}
th,td{padding:3px 9px;text-align:left;vertical-align:top;border-bottom:1px solid #ddd;
font-variant-numeric:tabular-nums}figure{display:inline-block;margin:2px 6px 2px 0}
figcaption{font-size:12px;color:#555}img{display:block;image-rendering:pixelated}.bad{color:#a33}.pair{background:#f4f0e4;padding:4px;margin:4px;display:inline-block}p{max-width:900px}"""


def reference_of(a: Compare, prompt: str, prior: EmbeddedPrior) -> Tensor:
    """The prompt's reference frames, made once."""
    path = cell_path(a.out, prompt, "reference", a.reference)
    if not path.is_file():
        save_made(path, Made(reference_frames(a, prompt, prior), None, None, {}))
    frames = load_made(path).frames
    assert frames is not None
    return frames


def picture(made: Made) -> bytes | None:
    """WebP of a cell: its turntable, lit, or its four frames over their normals."""
    if made.frames is None:
        return None
    if made.turntable is not None:
        frames = [Image.fromarray(f) for f in to_bytes(made.turntable)]
        more: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 90, "loop": 0}
        first = frames[0]
    else:
        strips = [torch.cat(list(made.frames[:, c]), 2) for c in (slice(0, 3), slice(4, 7))]
        first, more = Image.fromarray(to_bytes(torch.cat(strips, 1)[None])[0]), {}
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", quality=80, **more)
    return buffer.getvalue()


def width_of(a: Compare, method: str) -> int:
    """Pixels of a cell's picture: a turntable, or four frames side by side."""
    return 128 if a.space == "3d" and method != DDIM else 256


def image(data: bytes | None, title: str, width: int = 256) -> str:
    if data is None:
        return '<div class="bad">nothing</div>'
    code = base64.b64encode(data).decode()
    return f'<img src="data:image/webp;base64,{code}" width="{width}" alt="{html.escape(title)}">'


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML."""
    top = "".join(f"<th>{h}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def summary_table(rows: dict[str, dict[str, Any]]) -> str:
    def cells(name: str, row: dict[str, Any]) -> list[str]:
        most = max(row["n"].values())
        out = [html.escape(name)]
        for key, scale, digits in COLUMNS:
            of = "" if row["n"][key] in (0, most) else f" of {row['n'][key]}"
            out.append(interval_text(row[key], scale, digits) + of)
        return out

    return table(["method", *(k for k, _, _ in COLUMNS)], [cells(m, r) for m, r in rows.items()])


def paired_table(rows: dict[str, dict[str, Any]]) -> str:
    names = [k for k in next(iter(rows.values())) if k != "n"]
    scale = {"R@1, difference": 100, "janus, difference": 100}
    body = [[html.escape(m), *(interval_text(r[k], scale.get(k, 1), 3) for k in names)] for m, r in rows.items()]
    return table(["method", *names], body)


def figure(cell: Cell, data: bytes | None, width: int) -> str:
    if cell.collapsed is not None:
        text = f'<span class="bad">{html.escape(cell.collapsed)}</span>'
    else:
        text = f"seed {cell.seed} · rank {cell.rank} · margin {cell.margin:+.2f}"
    return f"<figure>{image(data, f'{cell.method} {cell.seed}', width)}<figcaption>{text}</figcaption></figure>"


def together(group: Group) -> dict[int, list[int]]:
    """Modes that more than one seed ended in: mode: seeds."""
    seeds: dict[int, list[int]] = {}
    for seed, mode in group.modes.items():
        seeds.setdefault(mode, []).append(seed)
    return {m: s for m, s in seeds.items() if len(s) > 1}


def html_report(
    a: Compare, cells: Sequence[Cell], groups: Sequence[Group], pictures: dict[tuple[str, str, int], bytes | None],
    results: dict[str, Any],
) -> str:  # fmt: skip
    blind = ", view-blind prior" if a.blind_camera or a.guide.blind_camera else ""
    parts = [
        f"<!doctype html><meta charset=utf-8><title>Polymode comparison</title><style>{STYLE}</style>",
        f"<h1>Guidance methods compared</h1><p>Space {a.space}{blind}, {len(a.prompts)} prompts, "
        f"{a.seeds} seeds a method, prior {html.escape(a.prior)}.</p>",
        summary_table(results["summary"]),
        f"<p>{NOTE}</p>",
    ]
    if results["paired"]:
        title = f"Against {html.escape(results['base'])} on the same prompts"
        parts.append(f"<h2>{title}</h2>{paired_table(results['paired'])}")
        parts.append("<p>Saturation gap: distance to the saturation of the prior's samples; negative is nearer.</p>")
    by_key = {(c.prompt, c.method, c.seed): c for c in cells}
    for prompt in a.prompts:
        parts.append(f"<h2>{html.escape(prompt)}</h2>")
        rows = []
        for g in (g for g in groups if g.prompt == prompt):
            found = [(by_key[prompt, g.method, n], pictures[prompt, g.method, n]) for n in range(a.seeds)]
            figures = [figure(c, data, width_of(a, g.method)) for c, data in found]
            rows.append([f"<b>{html.escape(g.method)}</b>", "".join(figures)])
        parts.append(table(["method", "seeds"], rows))
    parts.append("<h2>Collapse report</h2><p>Seeds that ended in the same mode, prompt by prompt.</p>")
    for g in groups:
        shared = together(g)
        if shared:
            parts.append(f"<h3>{html.escape(g.prompt)} · {html.escape(g.method)}</h3>")
            for seeds in shared.values():
                width = width_of(a, g.method)
                inside = "".join(image(pictures[g.prompt, g.method, n], f"seed {n}", width) for n in seeds)
                parts.append(f'<div class="pair">seeds {", ".join(map(str, seeds))}{inside}</div>')
    return "\n".join(parts) + "\n"


def measure_all(a: Compare, prior: EmbeddedPrior, evaluator: Evaluator) -> tuple[list[Cell], list[Group], dict]:
    """(cells, groups, pictures), prompt by prompt."""
    fixed = eval100()
    prompts = {p: prompt_of(p, fixed) for p in a.prompts}
    kinds = classes([*fixed, *prompts.values()])
    cells, groups, pictures = [], [], {}
    for text, prompt in prompts.items():
        reference = features_of(evaluator, reference_of(a, text, prior)).split(VIEWS)
        for method in a.rows():
            mine = []
            for seed in range(a.seeds):
                made = load_made(cell_path(a.out, text, method, seed))
                mine.append(measure_cell(evaluator, made, (text, method, seed), prompt, kinds))
                pictures[text, method, seed] = picture(made)
            cells += mine
            groups.append(group_of(mine, reference))
    return cells, groups, pictures


def report(a: Compare, prior: EmbeddedPrior) -> dict[str, Any]:
    """Measure every cell and write both files; returns results.json's content."""
    evaluator = load_evaluator()
    cells, groups, pictures = measure_all(a, prior, evaluator)
    methods = a.rows()
    base = "sds" if "sds" in methods else a.names()[0]
    results: dict[str, Any] = {
        "space": a.space,
        "blind_camera": a.blind_camera or a.guide.blind_camera,
        "prompts": list(a.prompts),
        "seeds": a.seeds,
        "base": base,
        "summary": summary(groups, methods),
        "paired": paired(groups, [m for m in methods if m != base], base, DDIM),
        "collapse": [asdict(g) for g in groups],
        "cells": [c.row() for c in cells],
    }
    write_results(a.out / "results.json", results)
    write_atomically(a.out / "report.html", html_report(a, cells, groups, pictures, results).encode())
    return results


def text_table(rows: dict[str, dict[str, Any]]) -> str:
    """The summary as aligned text."""
    lines = [["method", *(k for k, _, _ in COLUMNS)]]
    lines += [[m, *(interval_text(r[k], s, d) for k, s, d in COLUMNS)] for m, r in rows.items()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
