"""What the embedded prior has heard of: the names in its training captions, and how far to trust it on a prompt.

confidence = 1 / (1 + exp(-(a + b c))), c the largest cosine between the prompt's and a known name's mean MiniLM token
embeddings (centred on the names' mean); a and b are fitted by app/training/calibrate.py to whether samples of a prompt
were recognised. Below c = UNKNOWN there is none: a logistic curve has a floor, which nonsense would get too.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from guidance.errors import MissingWeights
from guidance.priors.text import TextEmbedding, TextEncoder

FILE = "known.safetensors"
UNKNOWN = 0.4  # a largest cosine below it says nothing: nonsense and other languages have as much (docs/prior.md)


@dataclass(frozen=True)
class Known:
    """`names`, their unit embeddings (N, 384), the mean (384,) they were centred on, and the fit (a, b)."""

    names: list[str]
    embeddings: Tensor
    center: Tensor
    fit: tuple[float, float]


@dataclass(frozen=True)
class Familiarity:
    """`nearest`: (name, cosine), best first. `confidence`: calibrated chance in (0, 1) that a sample is recognised;
    None for a prompt that is like no known name."""

    nearest: list[tuple[str, float]]
    confidence: float | None

    def sentence(self, prior: str, prompt: str) -> str:
        """One line for people, printed before a run."""
        names = ", ".join(f"{name} ({cosine:.2f})" for name, cosine in self.nearest)
        if self.confidence is None:
            return (
                f'The {prior} prior does not know "{prompt}"; the nearest names that it knows are {names}. Expect a '
                "blob, or say in English what to make: one common thing."
            )
        return (
            f"The {prior} prior's nearest known names: {names}; chance of a recognisable result {self.confidence:.0%}."
        )


def plain(text: str) -> str:
    """Without the article, in lower case: how names are kept and prompts compared."""
    return re.sub(r"^(an?|the|some) ", "", text.strip().lower())


def mean_tokens(text: TextEmbedding) -> Tensor:
    """(N, 384) mean over each text's own tokens."""
    return (text.tokens * text.mask[..., None]).sum(1) / text.mask.sum(1, keepdim=True)


def embed_names(encoder: TextEncoder, names: list[str]) -> Tensor:
    """(N, 384) mean token embeddings, 64 names a call."""
    return torch.cat([mean_tokens(encoder(names[k : k + 64])) for k in range(0, len(names), 64)])


def save_known(folder: Path, encoder: TextEncoder, names: list[str], fit: tuple[float, float]) -> None:
    """Write known.safetensors (bf16) beside the weights in `folder`."""
    from safetensors.torch import save_file

    e = embed_names(encoder, names)
    center = e.mean(0)
    unit = F.normalize(e - center, dim=1)
    metadata = {"names": json.dumps(names), "fit": json.dumps(fit)}
    save_file({"embeddings": unit.bfloat16(), "center": center}, folder / FILE, metadata=metadata)


def load_known(folder: Path) -> Known | None:
    """None for a prior that came without the file (one's own training). MissingWeights for a damaged one."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            a, b = json.loads(metadata["fit"])
            e, center = file.get_tensor("embeddings").float(), file.get_tensor("center").float()
        return Known(json.loads(metadata["names"]), e, center, (float(a), float(b)))
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise MissingWeights(f"{path} is damaged; reinstall Polymode or delete the file to run without it.") from error


def familiarity(known: Known, encoder: TextEncoder, prompt: str, count: int = 3) -> Familiarity:
    """How familiar `prompt` is: the nearest known names, and the calibrated confidence, unless the largest cosine is
    below UNKNOWN."""
    e = F.normalize(embed_names(encoder, [plain(prompt)]) - known.center, dim=1)[0]
    cosines = known.embeddings @ e.cpu()
    best = cosines.topk(min(count, len(known.names)))
    nearest = [(known.names[int(i)], float(c)) for c, i in zip(best.values, best.indices, strict=True)]
    (a, b), best_cosine = known.fit, nearest[0][1]
    return Familiarity(nearest, None if best_cosine < UNKNOWN else 1 / (1 + math.exp(-(a + b * best_cosine))))
