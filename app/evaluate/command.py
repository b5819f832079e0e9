"""`polymode evaluate RUN|DIR|prior`: measure finished runs, or the prior's own samples."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from app.errors import UsageError
from app.evaluate.measure import QUALIFIED, Record, measure, qualified, table
from app.evaluate.network import Evaluator, load_evaluator
from app.evaluate.nouns import VIEW_DISTINCT, Prompt, classes, eval100, parse_prompts, prompt_of
from app.evaluate.options import Evaluate
from app.evaluate.prior import Sampling, sample_prompt
from app.evaluate.report import contact_sheet, text_table, write_results
from app.evaluate.statistics import interval_text
from app.evaluate.views import asset_frames, own_cameras
from app.models import load_prior
from app.ranges import ELEVATION, RANGES, SCALE
from app.text import to_json
from guidance.priors.embedded import EmbeddedPrior


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def find_runs(what: Path) -> list[Path]:
    """The run at `what`, or the runs directly in it, by name. UsageError if there is none."""
    if not what.is_dir():
        raise UsageError(f'{what} is not a folder; give a run folder, a folder of runs, or the word "prior".')
    runs = [what] if is_run(what) else sorted(f for f in what.iterdir() if f.is_dir() and is_run(f))
    if not runs:
        raise UsageError(f"There is no run in {what} (no config.yaml); give a run folder or a folder of runs.")
    return runs


def run_prompt(folder: Path) -> str:
    """The prompt in a run's config.yaml. UsageError where it has none."""
    try:
        prompt = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["prompt"]
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as e:
        raise UsageError(f"{folder / 'config.yaml'} has no prompt; evaluate a run that was made from one.") from e
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError(f"{folder / 'config.yaml'} has no prompt; evaluate a run that was made from one.")
    return prompt


def read_prompts(path: Path | None) -> list[Prompt]:
    if path is None:
        return eval100()
    try:
        prompts = parse_prompts(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path} cannot be read ({e}); give a text file with a prompt a line.") from e
    except ValueError as e:
        raise UsageError(f"{path}: {e}") from e
    if not prompts:
        raise UsageError(f"{path} has no prompts; give a text file with a prompt a line.")
    return prompts


Item = tuple[Record, Tensor]


def evaluate_runs(evaluator: Evaluator, what: Path, progress: bool = False) -> tuple[list[Item], list[str]]:
    """(record, frames) of each finished run, and the folders that have no mesh.glb."""
    fixed = eval100()
    finished, unfinished = [], []
    for folder in find_runs(what):
        if (folder / "mesh.glb").is_file():
            finished.append((folder, prompt_of(run_prompt(folder), fixed)))
        else:
            unfinished.append(str(folder))
    if not finished:
        raise UsageError(f"No run in {what} is finished (mesh.glb is missing); resume it first.")
    kinds = classes([*fixed, *(p for _, p in finished)])
    cameras, real_back = own_cameras(), qualified(evaluator)
    items = []
    for folder, prompt in tqdm(finished, unit="run", disable=not progress):
        frames = asset_frames(folder / "mesh.glb", cameras)
        items.append((measure(evaluator, frames, cameras.azimuth, prompt, kinds, str(folder), real_back), frames))
    return items, unfinished


def sampling(a: Evaluate) -> Sampling:
    return Sampling(steps=a.steps, scale=a.scale, guide_above=a.guide_above, elevation=a.elevation)


def samples(
    evaluator: Evaluator, prior: EmbeddedPrior, a: Evaluate, prompts: list[Prompt], progress: bool = False
) -> Iterator[Item]:
    """(record, frames) of each prompt's joint sample."""
    how = sampling(a)
    kinds = classes([*eval100(), *prompts])
    real_back = qualified(evaluator, "front_back_prior_views")
    for prompt in tqdm(prompts, unit="prompt", disable=not progress):
        frames, azimuth = sample_prompt(prior, prompt.text, how, a.seed)
        yield measure(evaluator, frames, azimuth, prompt, kinds, f"{prior.name}:{a.seed}", real_back), frames


def check(a: Evaluate) -> None:
    """UsageError for options that do not fit."""
    if a.what != "prior":
        plain = Evaluate(a.what)
        for name in ("prompts", "count", "seed", "prior", "steps", "scale", "guide_above", "elevation", "data"):
            if getattr(a, name) != getattr(plain, name):
                name = name.replace("_", "-")
                raise UsageError(f'--{name} is only for "polymode evaluate prior"; leave it out for runs.')
    if a.count is not None and a.count < 1:
        raise UsageError(f"--count {a.count} is out of range; use at least 1.")
    for name, value, (low, high) in (
        ("steps", a.steps, (1, 1000)),
        ("seed", a.seed, RANGES["seed"]),
        ("scale", a.scale, SCALE),
        ("guide-above", a.guide_above, RANGES["direct.guide-above"]),
        ("elevation", a.elevation, ELEVATION),
    ):
        if not low <= value <= high:
            raise UsageError(f"--{name} {value} is out of range; use {low} to {high}.")
    if a.data is not None and not (a.data / "lowpoly.jsonl").is_file():
        raise UsageError(f"There is no training pack in {a.data} (lowpoly.jsonl is missing); leave --data out.")
    if a.out is not None and a.out.exists() and not a.out.is_dir():
        raise UsageError(f"The output {a.out} is a file; give a folder with --out.")


def run_evaluate(a: Evaluate) -> int:
    """The command's body: prints the table (or JSON). Returns the exit code."""
    results = evaluated(a, sys.stderr.isatty())
    if a.json:
        sys.stdout.write(to_json(results, encoding=sys.stdout.encoding) + "\n")
    else:
        sys.stdout.write(text_report(results, a.out))
    return 0


def evaluated(a: Evaluate, progress: bool = False) -> dict[str, Any]:
    """What results.json holds, written into --out where that is given. `progress`: a bar on stderr."""
    check(a)
    evaluator = load_evaluator()
    results: dict[str, Any] = {"what": a.what}
    prior = load_prior(a.prior, torch.device("cpu")) if a.what == "prior" else None
    if prior is not None:
        items = list(samples(evaluator, prior, a, read_prompts(a.prompts)[: a.count], progress))
        results |= {"prior": a.prior, "seed": a.seed}
        results |= {"sampling": asdict(sampling(a))}
    else:
        items, unfinished = evaluate_runs(evaluator, Path(a.what), progress)
        results |= {"unfinished": unfinished}
    records = [r for r, _ in items]
    results |= {"table": table(records), "janus": janus_note(evaluator, a.what == "prior")}
    results |= {"ceiling": ceiling_note(evaluator), "records": [r.row() for r in records]}
    if a.out is not None:
        a.out.mkdir(parents=True, exist_ok=True)
        contact_sheet(a.out / "contact_sheet.png", items)
    if a.data is not None and prior is not None:
        from app.training.against_data import against_data  # the one door to app/training/, for its own people

        results["against_data"] = against_data(evaluator, prior, sampling(a), a.seed, items, a.data, a.out)
    if a.out is not None:
        write_results(a.out / "results.json", results)
    return results


def janus_note(evaluator: Evaluator, of_prior: bool) -> dict[str, Any]:
    """Which nouns the evaluator may judge for Janus faces, and why not the others."""
    section = "front_back_prior_views" if of_prior else "front_back"
    good = qualified(evaluator, section)
    return {
        "qualified": sorted(good),
        "not_qualified": sorted(set(VIEW_DISTINCT) - set(good)),
        "needed": QUALIFIED,
        "held_out": evaluator.config["ceiling"][section],
    }


def ceiling_note(evaluator: Evaluator) -> dict[str, Any]:
    ceiling = evaluator.config["ceiling"]
    keys = ("held_out_12_own_views", "held_out_4_prior_views", "classes_without_any_object", "chance_R@1")
    colour = {k: ceiling["recoloured_held_out"][k] for k in ("objects", "colour right", "R@1")}
    return {k: ceiling[k] for k in keys} | {"recoloured_held_out": colour}


def text_report(results: dict[str, Any], out: Path | None) -> str:
    """What is printed without --json."""
    lines = [text_table(results["table"]), ""]
    lines.append(
        "R@1, R@5, colour and Janus in percent, saturation in CIELAB chroma; mean [95 % interval over prompts]."
    )
    ceiling = results["ceiling"]
    c = ceiling["held_out_4_prior_views" if results["what"] == "prior" else "held_out_12_own_views"]
    red = ceiling["recoloured_held_out"]
    lines.append(
        f"Ceiling, on {c['objects']} real held-out objects: R@1 {100 * c['R@1'][0]:.0f}, R@5 {100 * c['R@5'][0]:.0f}, "
        f"recoloured: R@1 {100 * red['R@1'][0]:.0f}, colour {100 * red['colour right'][0]:.0f}. "
        f"Chance: R@1 {100 * ceiling['chance_R@1']:.1f}."
    )
    untested = ", ".join(ceiling["classes_without_any_object"])
    lines.append(f"Never seen by the evaluator, ranked by the meaning of the word alone: {untested}.")
    good, bad = (", ".join(results["janus"][k]) for k in ("qualified", "not_qualified"))
    kinds = results["janus"]["held_out"].items()
    found = ", ".join(f"{k} {100 * v['accuracy']:.0f} ({v['objects']} objects)" for k, v in kinds)
    lines.append(f"Front told from back on real held-out views, percent: {found}; 95 are needed.")
    lines.append(f"Excess Janus over {good}; not measured for {bad}." if good else "Excess Janus: not measured.")
    for folder in results.get("unfinished", []):
        lines.append(f"Not finished, left out: {folder}")
    if "against_data" in results:
        k, m = results["against_data"]["kernel_distance"], results["against_data"]["memory"]
        lines.append(
            f"Kernel distance to held-out renders {k['samples_to_held_out']:.4f} (floor, real training renders: "
            f"{k['floor_training_to_held_out']:.4f} +- {k['floor_standard_deviation']:.4f})."
        )
        lines.append(
            f"Cosine distance to the nearest training view: samples {m['samples_to_training'][0]:.3f}, real held-out "
            f"views {m['held_out_to_training'][0]:.3f}."
        )
        lines += [*consistency_lines(results["against_data"]["consistency"])]
        lines += [*novel_view_lines(results["against_data"]["novel_views"])]
    if out is not None:
        lines.append(f"{out / 'results.json'}\n{out / 'contact_sheet.png'}")
    return "\n".join(lines) + "\n"


def consistency_lines(c: dict[str, Any]) -> Iterator[str]:
    yield f"A fifth view against four fused ({c['prompts']} prompts, {c['without a hull']} without a hull):"
    for name in ("own fifth", "another's fifth", "exact renders"):
        if c[name]:
            numbers = ", ".join(f"{k} {interval_text(v)}" for k, v in c[name].items())
            yield f"  {name}: {numbers}"


def novel_view_lines(n: dict[str, Any]) -> Iterator[str]:
    yield f"Four views from one picture, {n['objects']} held-out objects:"
    for who in ("prior", "same view", "grey"):
        yield f"  {who}: PSNR {interval_text(n[f'{who} PSNR'])}, SSIM {interval_text(n[f'{who} SSIM'])}"
