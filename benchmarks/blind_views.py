"""Janus under a view-blind prior: does the entropy of the views keep the four frames of one person apart?

    python -m benchmarks.blind_views FOLDER [--exact LAMBDA ...]

FOLDER is a comparison of people with --space image --blind-camera. Of each method's runs: the share of back views that
the evaluator calls fronts, of all frames that it calls fronts, and the mean feature distance between the four frames
of one run (0: one picture four times). Mean [95 % bootstrap over runs].

--exact adds ESD whose scores need no learning. Without a camera the frames' own score is the mean shift over the four
(guidance/priors/analytic.py's `empirical`), with one it is the noise:

    g = e_cfg(z) - lambda e_empirical(z; x_1 .. x_4) - (1 - lambda) eps

and says how far apart the frames are, in noise levels: where that is much, the mean shift sees one frame alone, is eps
too, and lambda changes nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from app.compare.cells import cell_path, load_made, pixels
from app.compare.measures import features_of, mean_distance
from app.compare.options import Compare
from app.evaluate.network import Evaluator, load_evaluator
from app.evaluate.statistics import interval_text, mean_interval
from app.evaluate.views import front_and_back, prior_cameras
from app.models import load_prior
from app.stages.views import asked
from guidance.cfg import start_cfg
from guidance.esd import esd
from guidance.method import Guided, Setup, Shown, draw_noise, encoded, finish, guided_prediction
from guidance.prior import Views
from guidance.priors.analytic import denoise, empirical

STEPS = (0, 2, 5, 10, 25, 49)  # where the distance between frames is printed


class ExactESD:
    """ESD with the frames' exact scores; `apart[i]`: mean distance between frames at step i, in noise levels."""

    def __init__(self, setup: Setup, entropy: float):
        self.setup, self.entropy, self.cfg = setup, entropy, start_cfg(setup.cfg)
        self.apart: list[float] = []

    def views(self, generator: torch.Generator) -> Views | None:
        return None

    def step(self, shown: Shown, generator: torch.Generator) -> Guided:
        x, t = encoded(self.setup, shown)
        schedule = self.setup.prior.schedule
        with torch.no_grad():
            noise = draw_noise(x, generator)
            z = schedule.add_noise(x, noise, t)
            pre = guided_prediction(self.setup, z, t, shown.views, self.cfg)
            marginal = denoise(empirical(x), z, schedule.a(t), schedule.s(t)).eps
            g = esd(pre.eps, noise, marginal, self.entropy)
            far = torch.pdist(x.flatten(1)).mean()
            self.apart.append(float(far * schedule.a(t[:1]) / schedule.s(t[:1])))
        return finish(self.setup, shown, x, g, pre.x0)

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        pass


def line(name: str, evaluator: Evaluator, runs: Sequence[Tensor]) -> str:
    """The row of runs, each (4, 7, 64, 64) frames."""
    back = front_and_back(prior_cameras().azimuth)[1]
    fronts = [(evaluator(frames, ["thing"]).front > 0).float() for frames in runs]
    apart = [mean_distance(list(features_of(evaluator, frames)[:, None])) for frames in runs]
    columns = [[float(f[back].mean()) for f in fronts], [float(f.mean()) for f in fronts]]
    cells = [interval_text(mean_interval(c), 100, 0) for c in columns]
    cells.append(interval_text(mean_interval([d for d in apart if d is not None]), 1, 3))
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--exact", type=float, nargs="*", default=[], metavar="LAMBDA")
    options = parser.parse_args()
    results = json.loads((options.folder / "results.json").read_text(encoding="utf-8"))
    keys = [(p, s) for p in results["prompts"] for s in range(results["seeds"])]
    evaluator = load_evaluator()
    print("| method | back called front, % | frames called front, % | distance of the frames |\n|---|---|---|---|")
    for method in results["summary"]:
        runs = [load_made(cell_path(options.folder, p, method, s)).frames for p, s in keys]
        print(line(method, evaluator, [r for r in runs if r is not None]), flush=True)
    prior = load_prior("embedded", torch.device("cpu"), "bfloat16")
    a = Compare(tuple(results["prompts"]), blind_camera=True, precision="bfloat16")
    for entropy in options.exact:
        runs, apart = [], []
        for prompt, seed in keys:
            recipe = a.recipe(prompt, "esd", seed)
            method = ExactESD(Setup(prior, asked(recipe), a.image.scale, seed=seed), entropy)
            runs.append(pixels(recipe, a.image, prior, method)[0])
            apart.append(torch.tensor(method.apart))
        print(line(f"esd, exact scores, lambda {entropy:g}", evaluator, runs), flush=True)
        far = torch.stack(apart).mean(0)
        print("frames apart, in noise levels: " + ", ".join(f"step {i}: {far[i]:.1f}" for i in STEPS))


if __name__ == "__main__":
    main()
