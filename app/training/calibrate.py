"""What the embedded prior knows, and how far to trust it: `python -m app.training.calibrate --data ../shared/data`.

Samples prompts of three kinds (names of training families, names of held-out families, things that no pack has), asks
the evaluator whether the right noun is among its first five, and fits a logistic curve of that to the prompt's largest
cosine with a known name. The prompts of eval100 take no part. Writes known.safetensors beside the weights and prints
the fit with its cross-validated Brier score.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from numpy.typing import NDArray
from scipy.optimize import minimize

from app.evaluate.measure import measure
from app.evaluate.network import load_evaluator
from app.evaluate.nouns import classes, eval100, prompt_of
from app.evaluate.prior import Sampling, sample_prompt
from app.models import load_prior, weights_folder
from app.training.data import packs_in, read_rows, split_families, unseen
from guidance.priors.known import embed_names, plain, save_known

FOREIGN = """violin, helicopter, elephant, giraffe, bicycle, umbrella, telephone, typewriter, camera, piano, guitar,
sewing machine, kangaroo, penguin, submarine, tractor, lighthouse, hot air balloon, chandelier, hourglass, telescope,
wheelchair, trumpet, roller skate, anchor, saddle, igloo, totem pole, lobster, snail""".replace("\n", " ").split(", ")


@dataclass(frozen=True)
class Arguments:
    """Calibrate a prior's confidence."""

    data: Path = Path("../shared/data")
    prior: str = "embedded"
    familiar: int = 80
    """Names of training families that are sampled."""
    steps: int = 12
    seed: int = 0


def logistic(c: NDArray[np.float64], hit: NDArray[np.float64]) -> tuple[float, float]:
    """(a, b >= 0) of 1 / (1 + exp(-(a + b c))) by maximum likelihood, with a weak pull of b to 0 (one pseudo-prompt's
    worth) so that a separable sample stays finite."""

    def loss(p: NDArray[np.float64]) -> float:
        x = p[0] + p[1] * c
        return float(np.logaddexp(0, -x)[hit == 1].sum() + np.logaddexp(0, x)[hit == 0].sum() + 0.01 * p[1] ** 2)

    found = minimize(loss, np.zeros(2), bounds=[(-50, 50), (0, 50)]).x
    return float(found[0]), float(found[1])


def brier(c: NDArray[np.float64], hit: NDArray[np.float64], folds: int = 5) -> float:
    """Mean squared error of the confidence, each fifth of the prompts predicted by a fit to the others."""
    error = np.empty(len(c))
    for k in range(folds):
        out = np.arange(len(c)) % folds == k
        a, b = logistic(c[~out], hit[~out])
        error[out] = (1 / (1 + np.exp(-(a + b * c[out]))) - hit[out]) ** 2
    return float(error.mean())


def known_names(data: Path) -> tuple[list[str], list[str]]:
    """(names that training has seen, names of held-out families), of all packs in a folder."""
    rows = [r for name in packs_in(data) for r in read_rows(data, name)]
    training, held = split_families(rows)
    hidden = unseen(rows)
    seen = {plain(rows[i]["name"]) for i in training if i not in hidden}
    return sorted(seen), sorted({plain(rows[i]["name"]) for i in held})


def main() -> None:
    a = tyro.cli(Arguments)
    names, held_names = known_names(a.data)
    fixed = eval100()
    asked = {p.noun for p in fixed} | {plain(p.text) for p in fixed}
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(a.seed)).tolist()
    familiar = [names[i] for i in order if names[i] not in asked][: a.familiar]
    strange = [n for n in held_names if n not in asked and n not in names]
    prior = load_prior(a.prior, torch.device("cpu"))
    known = embed_names(prior.encoder, names)
    centre = known.mean(0)
    unit = F.normalize(known - centre, dim=1)
    evaluator, kinds, how = load_evaluator(), classes(fixed), Sampling(steps=a.steps)
    cosines, hits, groups = [], [], []
    for group, prompts in (("familiar", familiar), ("held-out", strange), ("foreign", FOREIGN)):
        for prompt in prompts:
            frames, azimuth = sample_prompt(prior, f"a {prompt}", how, a.seed)
            record = measure(evaluator, frames, azimuth, prompt_of(f"a {prompt}", ()), kinds, "prior", {})
            e = F.normalize(embed_names(prior.encoder, [prompt]) - centre, dim=1)[0]
            cosines.append(float((unit @ e).max()))
            hits.append(float(record.rank <= 5))
            groups.append(group)
        mine = [h for h, g in zip(hits, groups, strict=True) if g == group]
        sys.stderr.write(f"{group}: {len(mine)} prompts, recognised {np.mean(mine):.2f}\n")
    c, hit = np.array(cosines), np.array(hits)
    shuffled = np.random.default_rng(a.seed).permutation(len(c))
    fit = logistic(c, hit)
    base = float(hit.var())
    sys.stderr.write(
        f"fit {fit}, Brier score {brier(c[shuffled], hit[shuffled]):.3f} (of the mean alone {base:.3f})\n"
    )
    save_known(weights_folder(a.prior), prior.encoder, names, fit)


if __name__ == "__main__":
    main()
