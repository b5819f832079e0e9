"""The page: tabs for text, picture, runs and comparison; beside them the jobs and the open run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from app.errors import UsageError
from app.jobs.state import STATES
from app.web import actions
from app.web.compare import QUIET, compare_tab
from app.web.endpoints import add_endpoints
from app.web.forms import CHOSEN, controls, drawer, given, number, picture_controls, prompt_box
from app.web.panel import PAGE, Panel, changes, clickable, first, job_of
from app.web.site import Page, Site, escaped, worded
from app.web.style import ADDRESS, SHOW_PANEL, tab_class

POLL = 1.0  # seconds
ACT: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def make_panel(gallery: gr.HTML, pages: gr.HTML) -> tuple[Panel, gr.Button]:
    """The right side, empty; and the button of its Rename drawer."""
    seen = gr.JSON({}, visible=False)
    waiting = clickable("waiting")
    head = gr.HTML("", elem_classes="head")
    with gr.Row(elem_classes="verbs"):
        cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="cancel")
        resume = gr.Button("Resume", variant="primary", visible=False, elem_id="resume")
        again = gr.Button("Run again", visible=False, elem_id="again")
        reseed = gr.Button("Another seed", visible=False, elem_id="reseed")
        trash = gr.Button("Move to trash", visible=False, elem_id="trash")
    group = clickable("group")
    live = gr.HTML("", visible=False)
    with gr.Row():
        model = gr.Model3D(label="mesh.glb", visible=False, height=380, elem_id="model")
        turn = gr.HTML("", visible=False, elem_id="turn")
    result = gr.HTML("", visible=False)
    with gr.Accordion("Rename", open=False, visible=False) as more:
        title = gr.Textbox(label="Title", max_length=200, elem_id="title")
        rename = gr.Button("Rename", elem_id="rename")
    verbs = (cancel, resume, again, reseed, trash)
    looks = (group, live, model, turn, result)
    return Panel(seen, waiting, head, *verbs, *looks, more, title, gallery, pages), rename


def build(site: Site) -> Page:
    """The Blocks of the page, not yet launched."""
    with Page(title="Polymode", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True) as page:
        add_endpoints(site)  # first, so that they get their names
        gr.HTML("<h1>Polymode</h1><p>A prompt or a picture becomes a textured 3D asset.</p>", elem_classes="top")
        with gr.Row():
            with gr.Column(scale=4, min_width=320, elem_id="left"):
                with gr.Tabs():
                    with gr.Tab("Text") as text_tab:
                        prompt = prompt_box("What to make, in English", "a red mushroom")
                        text = controls("embedded")
                        make = gr.Button("Generate", variant="primary", elem_id="generate")
                    with gr.Tab("Picture") as picture_tab:
                        pictures = picture_controls()
                        common = controls("embedded")
                        rebuild = gr.Button("Reconstruct", variant="primary", elem_id="reconstruct")
                    with gr.Tab("Runs") as runs_tab:
                        with gr.Row():
                            search = gr.Textbox(label="Search in titles", max_length=200, elem_id="search")
                            only = gr.Dropdown(["all", *STATES], value="all", label="State", elem_id="state")
                        gallery = clickable("gallery")
                        page_number = gr.Number(0, visible=False, precision=0)
                        with gr.Row(elem_classes="verbs"):
                            newer, older = gr.Button("Newer"), gr.Button("Older")
                        pages = gr.HTML("")
                    with gr.Tab("Compare") as comparing:
                        compare_tab(site, comparing)
                names, advanced = drawer()
            with gr.Column(scale=5, min_width=320, elem_id="panel"):
                chosen = gr.Textbox("", visible=False)
                panel, rename = make_panel(gallery, pages)
        # what a redraw needs: the open run, what the browser has, and the gallery's filters
        view = [chosen, panel.seen, search, only, page_number]
        shown = [chosen, *panel.all()]
        redraw: dict[str, Any] = {"fn": worded(looks(site)), "inputs": view, "outputs": shown, **QUIET}

        gr.Timer(POLL).tick(**redraw)
        page.load(worded(starts(site)), [search, only, page_number], shown, **QUIET)
        chosen.change(None, chosen, None, js=ADDRESS, api_visibility="private")
        for trigger in (make.click, prompt.submit):
            made = trigger(worded(makes(site, names)), [prompt, *text.all(), *advanced, *view[1:]], shown, **ACT)
            made.success(None, js=SHOW_PANEL, api_visibility="private")
        inputs = [*pictures.all(), *common.all(), *advanced, *view[1:]]
        made = rebuild.click(worded(rebuilds(site, names)), inputs, shown, **ACT)
        made.success(None, js=SHOW_PANEL, api_visibility="private")
        for component in (panel.waiting, panel.group, panel.gallery):
            opened = component.click(worded(clicks(site)), view, shown, **QUIET)
            opened.success(None, js=SHOW_PANEL, api_visibility="private")
        for button, act in (
            (panel.cancel, lambda id: actions.cancel(site, id).id),
            (panel.resume, lambda id: actions.resume(site, id).id),
            (panel.again, lambda id: actions.again(site, id).id),
            (panel.reseed, lambda id: actions.again(site, id, True).id),
            (panel.trash, lambda id: away(site, id)),
        ):
            button.click(worded(acts(site, act)), view, shown, **ACT)
        for trigger in (rename.click, panel.title.submit):
            trigger(worded(renames(site)), [panel.title, *view], shown, **ACT)

        for component in (search, only):
            component.change(lambda: 0, None, page_number, **QUIET).then(**redraw)
        newer.click(worded(lambda n: max(0, (n or 0) - 1)), page_number, page_number, **QUIET).then(**redraw)
        older.click(worded(turns(site)), [page_number, search, only], page_number, **QUIET).then(**redraw)
        for tab, name in ((text_tab, ""), (picture_tab, ""), (runs_tab, "listing"), (comparing, "comparing")):
            tab.select(None, js=tab_class(name), api_visibility="private")
    return page


# Each of these makes the function of an event: it answers with the run that is open, and what has changed.


def looks(site: Site) -> Callable[..., list[Any]]:
    def look(id: Any, *rest: Any) -> list[Any]:
        return [gr.skip(), *changes(site, id, *rest)]

    return look


def starts(site: Site) -> Callable[..., list[Any]]:
    def start(search: Any, only: Any, page: Any, request: gr.Request) -> list[Any]:
        id = first(site, str(dict(request.query_params).get("run", "")))
        return [id, *changes(site, id, {}, search, only, page)]

    return start


def makes(site: Site, names: Sequence[str]) -> Callable[..., list[Any]]:
    def make(prompt: Any, *more: Any) -> list[Any]:
        common, values, view = split(more, names)
        jobs = actions.generate(site, prompt, settings=given(names, values), **common)
        return [jobs[0].id, *changes(site, jobs[0].id, *view)]

    return make


def rebuilds(site: Site, names: Sequence[str]) -> Callable[..., list[Any]]:
    def rebuild(files: Any, prompt: Any, background: Any, azimuth: Any, elevation: Any, *more: Any) -> list[Any]:
        common, values, view = split(more, names)
        told = {"background": background, "azimuth": azimuth, "elevation": elevation}
        jobs = actions.reconstruct(site, files, prompt, settings=given(names, values), **told, **common)
        return [jobs[0].id, *changes(site, jobs[0].id, *view)]

    return rebuild


def split(more: Sequence[Any], names: Sequence[str]) -> tuple[dict[str, Any], Sequence[Any], Sequence[Any]]:
    """(the common controls by name, the drawer's values, the rest)."""
    n = len(CHOSEN)
    common = dict(zip(CHOSEN, more[:n], strict=True))
    return common | {"faces": number(common["faces"])}, more[n : n + len(names)], more[n + len(names) :]


def clicks(site: Site) -> Callable[..., list[Any]]:
    def click(id: Any, seen: Any, search: Any, only: Any, page: Any, event: gr.EventData) -> list[Any]:
        data = event._data if isinstance(event._data, dict) else {}
        run = actions.plain(data.get("run"), "A run", 300)
        if data.get("what") == "cancel":
            actions.cancel(site, run)
        elif job_of(site, run) is None:
            raise UsageError("That run is no longer here.")
        else:
            id = run
        return [id, *changes(site, id, seen, search, only, page)]

    return click


def acts(site: Site, act: Callable[[Any], str]) -> Callable[..., list[Any]]:
    def button(id: Any, *rest: Any) -> list[Any]:
        then = act(id)
        return [then, *changes(site, then, *rest)]

    return button


def away(site: Site, id: Any) -> str:
    """Moves a run to the trash; the run that is shown instead."""
    where = actions.trash(site, id)
    gr.Info(escaped(f"Moved to {where}; nothing is deleted."))
    return first(site)


def renames(site: Site) -> Callable[..., list[Any]]:
    def rename(title: Any, id: Any, *rest: Any) -> list[Any]:
        actions.rename(site, id, title)
        return [id, *changes(site, id, *rest)]

    return rename


def turns(site: Site) -> Callable[..., int]:
    def older(page: Any, search: Any, only: Any) -> int:
        page = page if isinstance(page, int) and 0 <= page < 10**6 else 0
        return page + 1 if actions.runs(site, search, only, 1, (page + 1) * PAGE) else page

    return older
