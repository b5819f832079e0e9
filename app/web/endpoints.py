"""The endpoints for gradio_client: /generate, /reconstruct, /status, /runs, /cancel, /resume, /rename, /trash and
/result. Everything else of the page is hidden from the API."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.events import api

from app.web import actions
from app.web.actions import told
from app.web.panel import cached
from app.web.site import Site, worded


def add_endpoints(site: Site) -> None:
    """Within a Blocks context."""

    def generate(
        prompt: str,
        preset: str = "draft",
        method: str = "direct",
        seed: int = 0,
        count: int = 1,
        faces: int | None = None,
        prior: str = "embedded",
        settings: dict | None = None,
        format: str = "glb",
    ) -> list[dict]:
        """Queue a prompt. `settings`: any number of a run by its flag's name, such as {"field.steps": 200}.
        `format`: "obj,stl" and so on, beside the GLB. Returns a job for each of `count` seeds."""
        jobs = actions.generate(
            site,
            prompt,
            count,
            settings,
            preset=preset,
            method=method,
            seed=seed,
            faces=faces,
            prior=prior,
            format=format,
        )
        return [told(j) for j in jobs]

    def reconstruct(
        pictures: list,
        prompt: str = "",
        preset: str = "draft",
        method: str = "direct",
        seed: int = 0,
        count: int = 1,
        faces: int | None = None,
        prior: str = "embedded",
        background: str = "auto",
        azimuth: list | None = None,
        elevation: list | None = None,
        settings: dict | None = None,
        format: str = "glb",
    ) -> list[dict]:
        """Queue 1 to 8 pictures of one object: [handle_file("front.png"), ...]. Angles in degrees, one for each
        picture, or none. Returns a job for each of `count` seeds."""
        chosen = {"preset": preset, "method": method, "seed": seed, "faces": faces, "prior": prior, "format": format}
        jobs = actions.reconstruct(site, pictures, prompt, count, settings, background, azimuth, elevation, **chosen)
        return [told(j) for j in jobs]

    def status(run: str) -> dict:
        """A run's job, and its progress (stage, step, steps, eta) while it runs."""
        return actions.status(site, run)

    def runs(search: str = "", state: str = "all", limit: int = 50, offset: int = 0) -> list[dict]:
        """Runs, newest first: those with `search` in their title, in one state."""
        return [told(j) for j in actions.runs(site, search, state, limit, offset)]

    def cancel(run: str) -> dict:
        """Stop a run, or take it out of the queue."""
        return told(actions.cancel(site, run))

    def resume(run: str) -> dict:
        """Queue a cancelled or failed run again; it goes on from its checkpoints."""
        return told(actions.resume(site, run))

    def rename(run: str, title: str) -> dict:
        """Give a run another title."""
        return told(actions.rename(site, run, title))

    def trash(run: str) -> str:
        """Move a run that is over into the trash folder. Returns where it is."""
        return actions.trash(site, run)

    def result(run: Any) -> tuple[Any, Any]:
        """A finished run: job, mesh facts and the addresses of its files; and its GLB."""
        found = actions.result(site, run)
        return found, cached(site.index.root / found["id"] / "mesh.glb")

    for f in (generate, reconstruct, status, runs, cancel, resume, rename, trash):
        api(worded(f), api_name=f.__name__)
    run = gr.Textbox(label="run", visible=False)
    outputs = [gr.JSON(label="result", visible=False), gr.File(label="mesh.glb", visible=False)]
    gr.Button(visible=False).click(worded(result), run, outputs, api_name="result")
