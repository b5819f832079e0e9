"""The Compare tab: two runs side by side."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.web import show
from app.web.actions import runs
from app.web.panel import job_of
from app.web.site import Site, worded

CHOICES = 300  # newest runs to choose from
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}


def choices(site: Site) -> list[tuple[str, str]]:
    return [
        (f"{j.title[:60]} · {j.method} · {j.state} · {show.when(j.created)}", j.id) for j in runs(site, limit=CHOICES)
    ]


def compare_tab(site: Site, tab: gr.Tab) -> None:
    """The tab's controls, inside it. They are filled when it is opened."""
    with gr.Row():
        left = gr.Dropdown([], label="One run", elem_id="left-run", min_width=300)
        right = gr.Dropdown([], label="Another", elem_id="right-run", min_width=300)
    with gr.Row():
        out = [gr.HTML("", elem_classes="side"), gr.HTML("", elem_classes="side")]

    def fill(a: Any, b: Any) -> list[Any]:
        known = choices(site)
        ids = [id for _, id in known]
        a = a if a in ids else (ids[0] if ids else None)
        b = b if b in ids else (ids[1] if len(ids) > 1 else None)
        return [gr.update(choices=known, value=a), gr.update(choices=known, value=b), *pair(a, b)]

    def pair(a: Any, b: Any) -> list[str]:
        jobs = [job_of(site, x) if isinstance(x, str) else None for x in (a, b)]
        return show.compared(site.index.root, jobs)

    tab.select(worded(fill), [left, right], [left, right, *out], **QUIET)
    for side in (left, right):
        side.input(worded(pair), [left, right], out, **QUIET)
