"""The panel of jobs and of one run: drawn anew every second from what the run folders say, so that a reload, another
browser and a restarted server show the same. Only what has changed is sent."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from app.errors import UsageError, UserError
from app.jobs import state
from app.jobs.state import ACTIVE, CANCELLED, FAILED, FINISHED, QUEUED, Job
from app.web import show
from app.web.actions import runs
from app.web.site import Site
from app.web.style import BUTTONS

PAGE = 24  # runs of the gallery at a time


@dataclass(frozen=True)
class Panel:
    """Components, in the order in which `changes` answers."""

    seen: gr.JSON
    waiting: gr.HTML
    head: gr.HTML
    cancel: gr.Button
    resume: gr.Button
    again: gr.Button
    reseed: gr.Button
    trash: gr.Button
    group: gr.HTML
    live: gr.HTML
    model: gr.Model3D
    turn: gr.HTML
    result: gr.HTML
    more: gr.Accordion
    title: gr.Textbox
    gallery: gr.HTML
    pages: gr.HTML

    def all(self) -> list[Any]:
        return [getattr(self, n) for n in self.__dataclass_fields__]


def clickable(classes: str = "") -> gr.HTML:
    """A list whose buttons ask the server (app/web/style.py)."""
    return gr.HTML("", js_on_load=BUTTONS, elem_classes=classes)


def job_of(site: Site, id: str) -> Job | None:
    try:
        return site.index.get(id) if id else None
    except UserError:
        return None


def first(site: Site, asked: str = "") -> str:
    """The run that a fresh page opens: the one that its address names, one at work, or the newest."""
    site.sync()
    if asked and job_of(site, asked) is not None:
        return asked
    at_work = site.jobs(ACTIVE, limit=PAGE) or site.jobs(limit=PAGE)
    return at_work[0].id if at_work else ""


def paint(site: Site, id: str, search: str, only: str, page: int) -> dict[str, Any]:
    """What the panel shows now, by the names of `Panel`: HTML, whether a button is there, a path, a title."""
    root, job, jobs = site.index.root, job_of(site, id), site.waiting()
    queue = [j.id for j in jobs if j.state == QUEUED]
    place = queue.index(id) + 1 if id in queue else 0
    group = site.jobs(group=job.group) if job is not None and job.group else []
    trouble = site.supervisor.trouble if site.supervisor is not None else ""
    try:
        found = runs(site, search, only, PAGE + 1, page * PAGE)
        gallery = show.gallery(root, found[:PAGE], id)
    except UsageError as e:
        found, gallery = [], f'<p class="alert">{show.e(e)}</p>'
    over = job is not None and job.state in FINISHED
    mesh = root / id / "mesh.glb" if over and (root / id / "mesh.glb").is_file() else None
    return {
        "waiting": show.waiting(root, jobs, id, trouble),
        "head": show.head(root, job, place),
        "cancel": job is not None and job.state in (QUEUED, state.RUNNING),
        "resume": job is not None and job.state in (CANCELLED, FAILED),
        "again": job is not None,
        "reseed": job is not None,
        "trash": over,
        "group": show.side_by_side(root, group, id),
        "live": show.live(root, job),
        "model": f"{mesh}?{mesh.stat().st_mtime_ns}" if mesh is not None else "",
        "turn": show.turn(root, job),
        "result": show.result(root, job),
        "more": job is not None,
        "title": job.title if job is not None else "",
        "gallery": gallery,
        "pages": f'<p class="quiet">Page {page + 1}{", the last" if len(found) <= PAGE else ""}</p>',
    }


def update(name: str, value: Any) -> Any:
    """A component's new state from `paint`'s value."""
    if name in ("cancel", "resume", "again", "reseed", "trash", "more"):
        return gr.update(visible=value)
    if name == "model" and value is None:
        return gr.update(value=None, visible=True)
    if name == "model":
        return gr.update(value=cached(Path(value.rsplit("?", 1)[0])) if value else None, visible=bool(value))
    if name in ("group", "live", "turn", "result"):
        return gr.update(value=value, visible=bool(value))
    return value


def cached(path: Path) -> str | None:
    """A copy of the file where Gradio serves it from."""
    try:
        return save_file_to_cache(path, get_upload_folder())
    except OSError:
        return None


def short(value: Any) -> str:
    return hashlib.sha256(repr(value).encode(errors="replace")).hexdigest()[:12]


def changes(site: Site, id: Any, seen: Any, search: Any = "", only: Any = "all", page: Any = 0) -> list[Any]:
    """Updates for `Panel.all()`: nothing for what the browser, by `seen`, has already."""
    id = id if isinstance(id, str) and len(id) < 300 else ""
    page = page if isinstance(page, int) and 0 <= page < 10**6 else 0
    had = seen if isinstance(seen, dict) else {}
    painted = paint(site, id, search or "", only or "all", page)
    now = {k: short(v) for k, v in painted.items()}
    # the viewer gets its file when it stands: given both at once, Gradio's shows nothing
    mount = f"mount {now['model']}"
    if painted["model"] and had.get("model") not in (mount, now["model"]):
        now["model"], painted["model"] = mount, None
    new = [update(k, v) if now[k] != had.get(k) else gr.skip() for k, v in painted.items()]
    return [now if now != had else gr.skip(), *new]
