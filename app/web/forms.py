"""The controls of the Text and Picture tabs, and the advanced drawer that is made from the recipe's dataclasses."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.components import Component

from app.export.size import FORMATS
from app.methods import METHODS
from app.pictures.read import KINDS, MORE, SUFFIXES
from app.recipes import BACKGROUNDS, MAX_PROMPT, PRESETS, picture_preset, preset
from app.reconstruct import MAX_PICTURES
from app.settings import Setting, groups, settings, value_of
from app.web.actions import MOST_SEEDS, priors
from app.web.style import RANDOM

METHOD_CHOICES = [
    ("direct: one pass, quick", "direct"),
    ("sds: distillation, a minute", "sds"),
    *((m, m) for m in METHODS if m != "sds"),
]
PRESET_HELP = "Sets every number that is not given: draft is quick, high takes many times as long."
GROUP_NAMES = {
    "run": "Run",
    "guide": "Guidance, every method",
    "field": "Stage 1: the field",
    "mesh": "Stage 2: the mesh",
    "refine": "Stage 3: refinement",
    "direct": "Method direct",
    "picture": "Pictures",
    "texture": "Stage 4: the texture",
    "export": "Files",
}


CHOSEN = ("preset", "method", "count", "seed", "faces", "prior", "format")  # as Controls.all() has them


@dataclass(frozen=True)
class Controls:
    """What both tabs have."""

    preset: gr.Radio
    method: gr.Dropdown
    count: gr.Slider
    seed: gr.Number
    faces: gr.Textbox
    prior: gr.Dropdown
    format: gr.CheckboxGroup

    def all(self) -> list[Component]:
        return [self.preset, self.method, self.count, self.seed, self.faces, self.prior, self.format]


def prompt_box(label: str, hint: str) -> gr.Textbox:
    return gr.Textbox(label=label, placeholder=hint, lines=2, max_lines=4, max_length=MAX_PROMPT)


def controls(prior: str) -> Controls:
    """`prior`: the one that is chosen at first."""
    quality = gr.Radio(PRESETS, value="draft", label="Preset", info=PRESET_HELP)
    info = "direct fuses the prior's own views; the others distil it, and take longer (docs/methods.md)."
    method = gr.Dropdown(METHOD_CHOICES, value="direct", label="Method", info=info)
    with gr.Row():
        with gr.Column(min_width=140):
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            random = gr.Button("Random seed", size="sm")
            random.click(None, None, seed, js=RANDOM, queue=False, api_visibility="private")
        info = "Each seed is a run of its own; pick one afterwards."
        count = gr.Slider(1, MOST_SEEDS, value=1, step=1, label="How many seeds", info=info, min_width=200)
    with gr.Row():
        faces = number_box("Faces", "Triangles of the result.", "the preset's", 140)
        choice = gr.Dropdown(priors(), value=prior, label="Prior", info="The diffusion model.", min_width=200)
    info = "Files beside the GLB. STL and 3MF are closed, for printing; how large, under Advanced."
    kinds = gr.CheckboxGroup([(f.upper(), f) for f in FORMATS[1:]], value=[], label="Formats", info=info)
    return Controls(quality, method, count, seed, faces, choice, kinds)


def drawer() -> tuple[list[str], list[Component]]:
    """The advanced drawer: (names of the settings, their components). Empty leaves a setting as the preset has it."""
    names: list[str] = []
    components: list[Component] = []
    with gr.Accordion("Advanced: every number of a run", open=False, elem_id="advanced"):
        gr.Markdown("What is left empty is as the preset has it. Names are those of the command line's flags.")
        for group, members in groups().items():
            with gr.Accordion(GROUP_NAMES.get(group, f"Method {group}"), open=False):
                for k in range(0, len(members), 2):
                    with gr.Row():
                        components += [control(s) for s in members[k : k + 2]]
                names += [s.name for s in members]
    return names, components


def control(s: Setting) -> Component:
    default = value_of(picture_preset("draft") if s.group == "picture" else preset("draft"), s)
    if s.kind is bool:
        info = f"{s.help} Else: {'yes' if default else 'no'}."
        return gr.Dropdown(["", "yes", "no"], value="", label=s.name, info=info, min_width=200)
    if s.choices:
        return gr.Dropdown(["", *s.choices], value="", label=s.name, info=f"{s.help} Else: {default}.", min_width=200)
    if s.kind is str:
        return gr.Textbox(label=s.name, info=s.help, placeholder=str(default), max_length=MAX_PROMPT)
    return number_box(s.name, s.help, f"{default:g} in draft", 200)


def number_box(label: str, info: str, placeholder: str, width: int = 160) -> gr.Textbox:
    """A number that may be left out; Gradio's own boxes for numbers show 0 for nothing."""
    return gr.Textbox(label=label, info=info, placeholder=placeholder, max_length=30, min_width=width)


def number(text: Any) -> Any:
    """The number that a box holds; what is none stays as it is, and is refused by who knows its name."""
    if not isinstance(text, str):
        return text
    for kind in (int, float):
        try:
            return kind(text.strip().replace(",", ""))
        except ValueError:
            continue
    return text


def given(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """The settings that were filled in."""
    known = settings()
    filled = {n: v for n, v in zip(names, values, strict=True) if v is not None and v != ""}
    return {n: number(v) if known[n].kind in (int, float) else v for n, v in filled.items()}


@dataclass(frozen=True)
class Pictures:
    """What the Picture tab has before the common controls."""

    files: gr.File
    prompt: gr.Textbox
    background: gr.Dropdown
    azimuth: gr.Textbox
    elevation: gr.Textbox

    def all(self) -> list[Component]:
        return [self.files, self.prompt, self.background, self.azimuth, self.elevation]


def picture_controls() -> Pictures:
    gr.Markdown(f"1 to {MAX_PICTURES} pictures of one object: {KINDS}, also {MORE}. The first is the front.")
    files = gr.File(label="Pictures", file_count="multiple", file_types=list(SUFFIXES), height=160)
    shown = gr.HTML()
    files.change(uploaded, files, shown, queue=False, show_progress="hidden", api_visibility="private")
    prompt = prompt_box("What it is, in English (may be empty)", "a red mushroom")
    with gr.Row():
        background = gr.Dropdown(
            BACKGROUNDS,
            value="auto",
            label="Background",
            info="How the object is cut out; alpha: its own transparency.",
        )
        azimuth = gr.Textbox(
            label="Azimuth", placeholder="estimated", info="Degrees for each picture: 0 front, 90 its +X."
        )
        elevation = gr.Textbox(
            label="Elevation", placeholder="estimated", info="Degrees from above, for each picture."
        )
    return Pictures(files, prompt, background, azimuth, elevation)


def uploaded(files: list[str] | None) -> str:
    """The uploaded pictures, small."""
    shown = [
        f'<img src="gradio_api/file={quote(f)}" alt="{html.escape(f.rsplit("/", 1)[-1], quote=True)}">'
        for f in (files or [])[:MAX_PICTURES]
    ]
    return f'<div class="uploaded">{"".join(shown)}</div>' if shown else ""
