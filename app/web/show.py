"""HTML of the page's lists and panels. Every text from a run or a request goes through `e`."""

from __future__ import annotations

import functools
import html
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from app.errors import UsageError
from app.export import report
from app.jobs import state
from app.jobs.command import duration
from app.jobs.state import ACTIVE, DONE, FAILED, FINISHED, QUEUED, Job
from app.pictures.intake import read
from app.recipe_yaml import load_recipe
from app.recipes import Recipe
from app.run.folder import Run
from app.settings import settings, value_of
from app.text import plainly
from app.web.files import downloads, facts, measured, previews, stage_and_step, thumbnail_source, url

STAGES = {"sample": "sampling views", "field": "growing the field", "mesh": "taking the mesh", "refine": "refining"}
REPORTED = ("Components", "Non-manifold", "Crossing", "Thinner", "Texels in use")  # rows of the report
MOST_SHOWN = 12  # of the jobs at work


def e(value: Any) -> str:
    """Text for HTML, in elements and in quoted attributes."""
    return html.escape(plainly(str(value)), quote=True)


def badge(name: str) -> str:
    return f'<span class="badge {e(name)}">{e(name)}</span>'


def when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def left(seconds: Any) -> str:
    """An ETA in words, "" for none."""
    if not isinstance(seconds, int | float) or not 0 <= seconds < 1e7:
        return ""
    return f"about {seconds / 60:.0f} min left" if seconds >= 120 else f"about {max(1, seconds):.0f} s left"


def stage_name(stage: str) -> str:
    """A stage as people call it: "fuse2" is a round of fitting."""
    base = stage.split("-")[0]
    for name, told in (("fuse", "fitting"), ("refine", STAGES["refine"])):
        if base.startswith(name):
            return f"{told}, round {base.removeprefix(name)}" if base != name else told
    return STAGES.get(base, base)


def progress(folder: Path, job: Job, place: int = 0) -> tuple[str, float]:
    """(where a job is, in words; the share of its present stage). `place` in the queue, from 1."""
    if job.state == QUEUED:
        return (f"waits, number {place} in the queue" if place else "waits"), 0.0
    if job.state == state.CANCELLING:
        return "stops after the present step", 0.0
    p = state.read_json(folder / state.PROGRESS) or {}
    # a progress.json from before the job was resumed says nothing
    if not isinstance(p.get("step"), int) or p.get("time", 0) < (job.started or 0) - 1:
        return "starts", 0.0
    words = f"stage {p.get('number')} of {p.get('stages')}, {stage_name(str(p.get('stage')))}"
    words += f": step {p['step']} of {p.get('steps')}"
    eta = left(p.get("eta"))
    share = p["step"] / max(1, p["steps"]) if isinstance(p.get("steps"), int) else 0.0
    return words + (f", {eta}" if eta else ""), min(1.0, share)


def bar(share: float) -> str:
    return f'<progress max="1" value="{share:.3f}" aria-label="Share of this stage that is done"></progress>'


def waiting(root: Path, jobs: Sequence[Job], selected: str, trouble: str = "") -> str:
    """The jobs at work and in the queue, each to be opened and cancelled."""
    alert = f'<p class="alert" role="alert">{e(trouble)}</p>' if trouble else ""
    if not jobs:
        return (
            alert
            + '<p class="quiet">Nothing is at work. What you generate appears here, and stays after a reload.</p>'
        )
    rows, place = [], 0
    for j in jobs:
        place += j.state == QUEUED
        if len(rows) == MOST_SHOWN:
            continue
        words, share = progress(root / j.id, j, place)
        rows.append(
            f'<li class="job{" chosen" if j.id == selected else ""}">'
            f'<button class="open" data-do="open" data-run="{e(j.id)}" data-key="open-{e(j.id)}">'
            f"<strong>{e(j.title)}</strong> {badge(j.state)}<br><span>{e(j.method)} · {e(words)}</span></button>"
            f'<button class="stop" data-do="cancel" data-run="{e(j.id)}" data-key="cancel-{e(j.id)}" '
            f'aria-label="Cancel {e(j.title)}">Cancel</button>{bar(share) if j.state in ACTIVE else ""}</li>'
        )
    more = f'<p class="quiet">and {len(jobs) - MOST_SHOWN} more</p>' if len(jobs) > MOST_SHOWN else ""
    return f'{alert}<ul class="jobs" aria-label="Jobs at work">{"".join(rows)}</ul>{more}'


def picture(folder: Path, name: str, alt: str, kind: str = "", extra: str = "") -> str:
    return f'<img class="{kind}" src="{e(url(folder, name))}" alt="{e(alt)}" {extra}>'


def card(root: Path, job: Job, selected: str, verb: str = "Open", name: str = "") -> str:
    """A run as a button with a picture; `name` instead of its title."""
    folder = root / job.id
    source = thumbnail_source(folder)
    inner = '<span class="none">no picture yet</span>'
    if source is not None:
        live = job.state in ACTIVE and source[0].suffix == ".webp"
        file = f"previews/{source[0].name}" if live else "thumbnail"
        version = int(source[0].stat().st_mtime) if source[0].exists() else 0
        inner = f'<img loading="lazy" src="run/{quote(job.id)}/{quote(file)}?v={version}" alt="">'
    chosen = ' aria-current="true"' if job.id == selected else ""
    return (
        f'<li><button class="card" data-do="open" data-run="{e(job.id)}" data-key="card-{e(job.id)}"{chosen} '
        f'aria-label="{e(verb)} {e(job.title)}, {e(job.state)}, {e(when(job.created))}">{inner}'
        f'<span class="title">{e(name or job.title)}</span>'
        f'<span class="line">{badge(job.state)} {e(job.method)}</span>'
        f'<span class="line">{e(when(job.created))}</span></button></li>'
    )


def gallery(root: Path, jobs: Sequence[Job], selected: str) -> str:
    if not jobs:
        return '<p class="quiet">No run fits. Runs that you make appear here.</p>'
    return f'<ul class="cards">{"".join(card(root, j, selected) for j in jobs)}</ul>'


def side_by_side(root: Path, jobs: Sequence[Job], selected: str) -> str:
    """The seeds of one request; "" where there is one."""
    if len(jobs) < 2:
        return ""
    jobs = sorted(jobs, key=lambda j: (j.created, j.id))
    cards = "".join(card(root, j, selected, "Pick", seed_of(root / j.id / "config.yaml")) for j in jobs)
    return f'<h3>Seeds side by side</h3><ul class="cards small">{cards}</ul>'


@functools.lru_cache(maxsize=512)
def seed_of(path: Path) -> str:
    """ "seed 3", or "" where the recipe cannot be read."""
    recipe = _recipe(path.parent)
    return "" if recipe is None else f"seed {recipe.seed}"


def head(root: Path, job: Job | None, place: int = 0) -> str:
    """Title, state and where it is."""
    if job is None:
        return '<p class="quiet">Choose a run, or make one.</p>'
    lines = [f"{job.kind} · {job.method}", when(job.created)]
    if took := duration(job):
        lines.append(took)
    out = f'<h2 class="name">{e(job.title)} {badge(job.state)}</h2><p class="quiet">{e(" · ".join(lines))}</p>'
    if job.state in (*ACTIVE, QUEUED):
        words, share = progress(root / job.id, job, place)
        out += f'<p role="status">{e(words[:1].upper() + words[1:])}.</p>' + (
            bar(share) if job.state in ACTIVE else ""
        )
    elif job.reason:
        reason = re.sub("`([^`]*)`", r"<code>\1</code>", e(job.reason))
        out += f'<p class="{"alert" if job.state == FAILED else "note"}">{reason}</p>'
    found = dict.fromkeys([*state.notes(root / job.id, job.state), *of_pictures(root / job.id)])
    return out + "".join(f'<p class="note">{e(n)}</p>' for n in found)


def of_pictures(folder: Path) -> list[str]:
    """What was guessed, left out or cut of a run's pictures: known before the run starts."""
    if not (folder / "pictures" / "pictures.json").is_file():
        return []
    try:
        return [f"{p.source}: {n}" for p in read(Run(folder)) for n in p.notes]
    except UsageError:
        return []


def live(root: Path, job: Job | None) -> str:
    """The newest turntable, and the newest sheet of what the prior is shown and answers, of a run that is not done."""
    if job is None or job.state in (DONE, QUEUED):
        return ""
    folder, out = root / job.id, ""
    if turntables := previews(folder, ".webp"):
        stage, step = stage_and_step(turntables[-1])
        words = f"{stage_name(stage)}, step {step}"
        name = f"previews/{turntables[-1].name}"
        out += (
            f'<figure class="turn">{picture(folder, name, f"{job.title} so far, seen all around", "live")}'
            f'<figcaption data-stage="{e(stage)}" data-step="{step}">The object so far: {e(words)}</figcaption>'
            "</figure>"
        )
    if sheets := previews(folder, ".png"):
        stage, step = stage_and_step(sheets[-1])
        alt = "Colours and normals that the prior is shown, and what it answers"
        out += (
            f'<figure class="sheet">{picture(folder, f"previews/{sheets[-1].name}", alt)}'
            f"<figcaption>What the prior sees, and what it answers: {e(stage_name(stage))}, step {step}</figcaption>"
            "</figure>"
        )
    if not out and job.state in ACTIVE:
        return '<p class="quiet">The first picture comes in a few seconds.</p>'
    return f'<div class="looks">{out}</div>' if out else ""


def turn(root: Path, job: Job | None) -> str:
    """The rendered turntable, which needs no 3D in the browser."""
    if job is None or job.state not in FINISHED or not (root / job.id / "turntable.mp4").is_file():
        return ""
    return video(root / job.id, job)


def result(root: Path, job: Job | None) -> str:
    """The contact sheet, what is known of the mesh, and what can be downloaded."""
    if job is None or job.state == QUEUED or job.state in ACTIVE:
        return ""
    folder, out = root / job.id, ""
    offered = downloads(folder)
    if "contact_sheet.png" in offered:
        alt = f"{job.title} from eight sides: shaded, base colour, normals"
        out += (
            f'<figure class="sheet"><a href="{e(url(folder, "contact_sheet.png"))}" target="_blank">'
            f"{picture(folder, 'contact_sheet.png', alt)}</a>"
            "<figcaption>Eight sides of the exported file: shaded, base colour, normals</figcaption></figure>"
        )
    for name, words in (("seen", "The pictures as the prior was shown them"), ("compare", "Pictures and result")):
        if (folder / f"pictures/{name}.png").is_file():
            shown = picture(folder, f"pictures/{name}.png", words)
            out += f'<figure class="sheet narrow">{shown}<figcaption>{words}</figcaption></figure>'
    out = f'<div class="looks">{out}</div>' if out else ""
    return out + mesh_table(folder, job) + report_notes(folder) + links(folder, offered)


def video(folder: Path, job: Job) -> str:
    return (
        f'<figure class="turn"><video src="{e(url(folder, "turntable.mp4"))}" controls autoplay loop muted '
        f'playsinline aria-label="Turntable of {e(job.title)}"></video>'
        "<figcaption>Turntable of the exported file</figcaption></figure>"
    )


def report_notes(folder: Path) -> str:
    """What the report warns of."""
    r = measured(folder)
    return "" if r is None else "".join(f'<p class="note">{e(w)}</p>' for w in r.warnings)


def mesh_rows(folder: Path) -> list[tuple[str, str]]:
    """What is known of the mesh, in words."""
    m = facts(folder)
    if not m:
        return []
    rows = [
        ("Faces", f"{m['faces']:,}"),
        ("Vertices", f"{m['vertices']:,}"),
        ("Watertight", "yes" if m["watertight"] else "no"),
        ("Size", " × ".join(f"{x:.2f}" for x in m["size"])),
        ("File", f"{m['bytes'] / 1e6:.2f} MB"),
        ("Texture", " × ".join(map(str, m["texture"]))),
    ]
    rows += [("Charts", str(m["charts"]))] if "charts" in m else []
    r = measured(folder)
    return rows + ([] if r is None else [(a, b) for a, b in report.rows(r) if a.startswith(REPORTED)])


def mesh_table(folder: Path, job: Job) -> str:
    rows = mesh_rows(folder)
    if job.state == DONE and not rows:
        return '<p class="alert">mesh.glb is missing or damaged.</p>'
    return table("The mesh", rows)


def table(caption: str, rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    cells = "".join(f'<tr><th scope="row">{e(a)}</th><td>{e(b)}</td></tr>' for a, b in rows)
    return f'<table class="facts"><caption>{e(caption)}</caption>{cells}</table>'


def links(folder: Path, offered: dict[str, str]) -> str:
    if not offered:
        return ""
    items = "".join(
        f'<li><a class="get" href="{e(url(folder, n))}" download="{e(folder.name)}-{e(n)}">{e(label)}</a></li>'
        for n, label in offered.items()
    )
    return f'<h3>Downloads</h3><ul class="gets">{items}</ul>'


def compared(root: Path, jobs: Sequence[Job | None]) -> list[str]:
    """A column for each of two runs: turntable, contact sheet, mesh, and the settings in which they differ."""
    recipes = [_recipe(root / j.id) if j is not None else None for j in jobs]
    both = [r for r in recipes if r is not None]
    names = differing(both[0], both[1]) if len(both) == 2 else []
    out = []
    for job, recipe in zip(jobs, recipes, strict=True):
        if job is None:
            out.append('<p class="quiet">Choose a run.</p>')
            continue
        folder = root / job.id
        rows = [] if recipe is None else [(n, words_of(recipe, n)) for n in names]
        body = head(root, job) + (turn(root, job) + result(root, job) if job.state in FINISHED else live(root, job))
        out.append(
            body + (table("Where the recipes differ", rows) if rows else "") + f'<p class="quiet">{e(folder.name)}</p>'
        )
    return out


PLAIN = ("prompt", "preset", "method", "seed", "prior")


def words_of(recipe: Recipe, name: str) -> str:
    value = getattr(recipe, name) if name in PLAIN else value_of(recipe, settings()[name])
    return str(value)


def differing(a: Recipe, b: Recipe) -> list[str]:
    """Names of the settings in which two recipes differ."""
    return [n for n in (*PLAIN, *settings()) if words_of(a, n) != words_of(b, n)]


def _recipe(folder: Path) -> Recipe | None:
    try:
        return load_recipe(folder / "config.yaml")
    except UsageError:
        return None
